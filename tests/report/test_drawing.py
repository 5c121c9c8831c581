"""Drawn pictures of the report."""

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="needs matplotlib")

from kd2.report import drawing


def test_a_long_name_stays_beside_its_row():
    names = [f"BloodImage_{n:05}_jpg.rf.{n:032}.jpg" for n in range(3)]
    pixels = np.zeros((48, 64, 3), dtype=np.uint8)
    figure = drawing.grid(["found"], [(name, [drawing.image(pixels)]) for name in names], [pixels.shape] * 3)
    figure.canvas.draw()
    boxes = [axes.yaxis.label.get_window_extent() for axes in figure.axes]
    assert all(upper.y0 >= lower.y1 for upper, lower in zip(boxes, boxes[1:]))
    assert len({axes.get_ylabel() for axes in figure.axes}) == 3


@pytest.mark.parametrize(("name", "shown"), [("short.jpg", "short.jpg"), ("abcdefghijk", "abcde\u2026hijk")])
def test_a_name_that_is_too_long_lacks_its_middle(name, shown):
    assert drawing.fitting(name, 10) == shown
