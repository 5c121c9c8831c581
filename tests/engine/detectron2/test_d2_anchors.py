"""The batch_info's anchor grids are the framework's own anchors."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

from types import SimpleNamespace

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.detectron2.batch_info import DenseAnchors, padded_size

SIZES = [[16, 20.159], [32, 40.317], [64, 80.635]]


class Model(nn.Module):
    """A stand-in for a detector with anchors of its own, or of its proposal generator."""

    def __init__(self, owner: str, offset: float = 0.0):
        super().__init__()
        generator = DefaultAnchorGenerator(
            sizes=SIZES, aspect_ratios=[[0.5, 1.0, 2.0]], strides=[8, 16, 32], offset=offset
        )
        if owner == "proposal_generator":
            self.proposal_generator = nn.Module()
            self.proposal_generator.anchor_generator = generator
        else:
            self.anchor_generator = generator
        self.generator = [generator]

    def dense(self, sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
        return [boxes.tensor for boxes in self.generator[0]([torch.zeros(1, 1, *size) for size in sizes])]


ALL = [(12, 16), (6, 8), (3, 4)]  # of a padded 96 x 128 batch


@pytest.mark.parametrize("owner", ["model", "proposal_generator"])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_dense_grids_equal_the_generators_anchors(owner, offset):
    model = Model(owner, offset)
    grids = DenseAnchors.of(model).grids((96, 128), ALL)
    for grid, expected in zip(grids, model.dense(ALL), strict=True):
        if offset == 0:
            assert torch.equal(grid.dense().reshape(-1, 4), expected)
        torch.testing.assert_close(grid.dense().reshape(-1, 4), expected, rtol=0, atol=1e-4)


def test_a_tap_may_leave_levels_out():
    model = Model("proposal_generator")
    grids = DenseAnchors.of(model).grids((96, 128), ALL[1:2])
    assert torch.equal(grids[0].dense().reshape(-1, 4), model.dense(ALL)[1])


def test_a_map_without_anchors_is_named():
    with pytest.raises(ConfigError, match=r"no anchors for a map of \(24, 32\) cells"):
        DenseAnchors.of(Model("model")).grids((96, 128), [(24, 32)])


def test_a_model_without_anchors_has_none():
    assert DenseAnchors.of(nn.Linear(1, 1)) is None


def model(size_divisibility: int, constraints: dict[str, int] | None = None, own: int = 0) -> SimpleNamespace:
    """What a backbone, or a model by itself, demands of the padded batch."""
    backbone = SimpleNamespace(size_divisibility=size_divisibility, padding_constraints=constraints or {})
    return SimpleNamespace(backbone=backbone, size_divisibility=own)


def test_padded_size_follows_the_backbone():
    sizes = [(60, 70), (50, 100)]
    assert padded_size(sizes, model(32)) == (64, 128)
    assert padded_size(sizes, model(0)) == (60, 100)
    assert padded_size(sizes, model(32, {"size_divisibility": 16})) == (64, 112)
    assert padded_size(sizes, model(0, {"square_size": 128})) == (128, 128)
    assert padded_size(sizes, model(32, own=80)) == (80, 160)


def test_an_image_beyond_the_square_is_refused():
    with pytest.raises(ConfigError, match="an image has 60 x 100 pixels, .* pads to 64 x 64: INPUT.MAX_SIZE_TRAIN"):
        padded_size([(60, 100)], model(0, {"square_size": 64}))
