"""What both networks see of a batch."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture
def seen(tmp_path, data, teacher):
    """A batch, and the images that the two detectors were given of it in a training step."""
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    distiller, batch = runs.distiller(config), runs.first_batch(config)
    given = []
    for model in (distiller.student, distiller.teacher.model):
        model.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[0]))
    distiller(batch)
    return batch, given


def test_images_become_numbers_once_for_both_networks(seen):
    _, (first, second) = seen
    assert all(a is b for a, b in zip(first, second, strict=True))


def test_numbers_are_from_0_to_1(seen):
    batch, (given, _) = seen
    assert all(torch.equal(x, pixels / 255) for x, pixels in zip(given, batch.images, strict=True))
