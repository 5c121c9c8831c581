"""What the command counts of a step."""

from types import SimpleNamespace

import pytest

from benchmarks.scaling import scaling_rows

from ..helpers.toys import IMITATION, batch, distiller


@pytest.fixture(scope="module")
def rows():
    model = distiller({"imitation": IMITATION | {"WEIGHT": 1.0}})
    found = scaling_rows(SimpleNamespace(distiller=model, batch=batch()))
    return model, {name: rest for name, *rest in found}


def test_gradients_of_the_student_and_of_the_adapters_are_sent_and_none_of_the_teacher(rows):
    model, found = rows
    student, adapters = (4 * sum(p.numel() for p in m.parameters()) for m in (model.student, model.adapters))
    assert adapters > 0
    sent = {name: row[0] for name, row in found.items()}
    assert sent == {"student alone": student, "student and adapters": student + adapters, "teacher": 0}


def test_the_teachers_operations_are_those_of_its_convolutions_up_to_the_tap(rows):
    """Two for a multiply-add: 16 x 24 cells of 3 to 6 channels, 8 x 12 of 6 to 6, with kernels of nine."""
    _, found = rows
    assert found["teacher"][2] == pytest.approx(2 * 9 * (16 * 24 * 3 * 6 + 8 * 12 * 6 * 6) / 1e9)


def test_a_distilled_step_has_more_operations_and_keeps_more(rows):
    _, found = rows
    alone, both = found["student alone"], found["student and adapters"]
    assert both[2] > alone[2] + found["teacher"][2] and both[3] > alone[3] > 0
