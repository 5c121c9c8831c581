"""Two processes with the losses of predictions: the same gradients on both, and the values of one process with all."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd2.distill import AnchorGrid, BatchInfo, BoxCoder, BoxCoding, Distiller, Proposals
from kd2.engine.build import make_distiller

from ..helpers.ranks import in_two_ranks

SIZE = (16, 16)
BASES = torch.tensor([[-4.0, -4, 4, 4], [-8, -4, 8, 4]])
BLOCKS = {
    "dense_kd": {"TAP": "dense", "WEIGHT": 1.0, "BOX": "giou", "POSITIONS": "teacher"},
    "roi_kd": {"TAP": "roi", "WEIGHT": 1.0, "BOX": "bounded"},
    "dist": {"TAP": "cls", "WEIGHT": 1.0, "ACTIVATION": "sigmoid"},
}


class Heads(nn.Module):
    """Scores of three classes and background, and boxes, of every row."""

    def __init__(self):
        super().__init__()
        self.scores, self.boxes = nn.Linear(4, 4), nn.Linear(4, 12)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(x), self.boxes(x)


class Detector(nn.Module):
    """Two anchors of three classes a cell, and heads for which every cell is a proposal."""

    def __init__(self):
        super().__init__()
        self.stem, self.score, self.box = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 6, 1), nn.Conv2d(4, 8, 1)
        self.heads = Heads()

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        x = self.stem(batch)
        scores, boxes = self.score(x), self.box(x)
        self.heads(x.movedim(1, 3).flatten(0, 2))
        return {"loss_own": scores.square().mean() + boxes.square().mean()}


def batch_info(batch: Tensor) -> BatchInfo:
    def grids(sizes: list) -> list[AnchorGrid]:
        return [AnchorGrid(BASES, (8, 8), size) for size in sizes]

    labels = torch.tensor([0, 3, 1, 3]).repeat(len(batch))
    proposals = [Proposals(labels, 3, lambda: torch.zeros(len(labels), 4))]
    coding = BoxCoding(grids, BoxCoder(), BoxCoder(), classes=3)
    return BatchInfo([SIZE] * len(batch), SIZE, coding=coding, proposals=proposals)


def distiller() -> Distiller:
    torch.manual_seed(0)
    taps = ["dense=score", "dense=box", "roi=heads@vector", "cls=score"]
    sides = Detector(), Detector()
    return make_distiller(*sides, taps=taps, losses=BLOCKS, batch_info=batch_info, image_size=SIZE).train()


def step(model: nn.Module, images: slice) -> dict[str, dict[str, Tensor]]:
    """Losses and gradients of a step on some of four images."""
    losses = model(3 * torch.randn(4, 3, *SIZE, generator=torch.Generator().manual_seed(0))[images])
    sum(losses.values()).backward()
    inner = getattr(model, "module", model)
    return {
        "losses": {name: x.detach() for name, x in losses.items()},
        "gradients": {name: p.grad for name, p in inner.named_parameters()},
    }


def work(rank: int) -> dict[str, dict[str, Tensor]]:
    return step(DistributedDataParallel(distiller()), slice(rank, None, 2))


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    return in_two_ranks(work, tmp_path_factory.mktemp("ranks"))


def test_gradients_are_equal_on_both_ranks(ranks):
    first, second = (rank["gradients"] for rank in ranks)
    assert all(torch.equal(first[name], second[name]) for name in first) and len(first) == 10


def test_the_mean_of_the_ranks_losses_is_that_of_one_process_with_all_images(ranks):
    whole = step(distiller(), slice(None))["losses"]
    # The relations of DIST are those among the samples of one process.
    parts = [name for name in whole if not name.startswith("loss_dist")]
    assert len(parts) == 5
    for name in parts:
        torch.testing.assert_close((ranks[0]["losses"][name] + ranks[1]["losses"][name]) / 2, whole[name])


def test_the_teachers_sureness_differs_between_the_ranks(ranks):
    assert ranks[0]["losses"]["loss_dense_kd_classes"] != ranks[1]["losses"]["loss_dense_kd_classes"]
