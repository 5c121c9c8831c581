"""Every registered loss in two processes: the student's and the adapters' gradients are the same on both."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd2.distill import AnchorGrid, BoxCoder, BoxCoding, Distiller, Proposals
from kd2.engine.build import make_distiller
from kd2.losses import loss_types

from ..helpers import toys
from ..helpers.ranks import in_two_ranks

TAPS = ["fpn=backbone:p3,p4", "scores=head", "vector=classifier@vector", "roi=boxes@vector"]
# What a loss needs that does not take maps of different widths with its defaults.
BLOCKS = {
    "channel_kd": {"TAP": "scores"},
    "dense_kd": {"TAP": "scores"},
    "dist": {"TAP": "vector"},
    "dkd": {"TAP": "vector"},
    "holistic": {"TAP": "scores", "ENLARGE": 4, "WIDTH": 2},
    "logits": {"TAP": "vector"},
    "pixelwise": {"TAP": "scores"},
    "roi_kd": {"TAP": "roi", "BOX": "smooth_l1"},
}


class BoxHead(nn.Module):
    """Scores of two classes and background, and one box for both."""

    def __init__(self, width: int):
        super().__init__()
        self.scores, self.numbers = nn.Linear(width, 3), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.scores(x), self.numbers(x)


class Network(toys.Toy):
    """Maps of two levels, scores of three classes on the first, of the whole image, and of it as a proposal."""

    def __init__(self, width: int):
        super().__init__(width)
        self.head = nn.Conv2d(width, 3, 1)
        self.classifier, self.boxes = nn.Linear(width, 3), BoxHead(width)

    def forward(self, batch: dict) -> dict[str, Tensor]:
        maps = self.backbone(batch["image"])
        whole = maps["p4"].mean((2, 3))
        found = [self.head(maps["p3"]), self.classifier(whole), *self.boxes(whole)]
        return {"loss_score": sum(x.square().mean() for x in found)}


def batch_info(batch: dict):
    info = toys.batch_info(batch)
    info.labels, info.images = torch.tensor([0, 2]), lambda: batch["image"]
    info.coding = BoxCoding(anchors, BoxCoder(), BoxCoder(), classes=3)
    info.proposals = [Proposals(torch.tensor([0, 2]), 2, lambda: torch.zeros(2, 4))]
    return info


def anchors(sizes: list[tuple[int, int]]) -> list[AnchorGrid]:
    return [AnchorGrid(torch.tensor([[-6.0, -6, 6, 6]]), (2, 2), size) for size in sizes]


def distiller(loss: str) -> Distiller:
    """Equal weights at every call; share and weight both play a part in one run of the losses."""
    torch.manual_seed(0)
    strength = {"SHARE": 0.5} if loss in ("fgd", "mgd") else {"WEIGHT": 1.0}
    return make_distiller(
        Network(4),
        Network(6),
        taps=TAPS,
        losses={loss: BLOCKS.get(loss, {}) | strength},
        run_teacher=lambda teacher, batch: teacher(batch),
        batch_info=batch_info,
        example_batch=toys.batch(),
        image_size=(32, 48),
    ).train()


def work(rank: int) -> dict[str, dict[str, dict[str, Tensor]]]:
    """The losses and gradients of the second step with every loss."""
    found = {}
    for loss in loss_types():
        model = DistributedDataParallel(distiller(loss))
        for step in range(2):  # a parameter that no loss reaches is reported at the second step only
            model.zero_grad()
            losses = model(toys.batch(seed=10 * step + rank))
            sum(losses.values()).backward()
        gradients = {name: p.grad for name, p in model.module.named_parameters()}
        found[loss] = {"losses": {k: x.detach() for k, x in losses.items()}, "gradients": gradients}
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict]]:
    return in_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("loss", loss_types())
def test_gradients_are_equal_in_both_processes(ranks, loss):
    first, second = (rank[loss]["gradients"] for rank in ranks)
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("loss", loss_types())
def test_the_processes_had_other_images_and_every_adapter_learned(ranks, loss):
    first, second = (rank[loss] for rank in ranks)
    assert any(
        first["losses"][name] != second["losses"][name] for name in first["losses"] if name.startswith(f"loss_{loss}")
    )
    adapters = {name: g for name, g in first["gradients"].items() if name.startswith("losses.")}
    assert all(g is not None and g.isfinite().all() for g in adapters.values())
    assert not adapters or any(g.abs().sum() > 0 for g in adapters.values())
