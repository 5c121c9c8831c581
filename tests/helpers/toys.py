"""Small models for the tests of the core. Maps: p3 at stride 2, p4 at stride 4."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kd2.distill import AnchorGrid, BatchInfo, Distiller
from kd2.engine.build import make_distiller

IMITATION = {"TYPE": "imitation", "ANCHORS": "retinanet"}


class Backbone(nn.Module):
    def __init__(self, width: int, checkpointed: bool = False):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage = nn.Sequential(nn.Conv2d(width, width, 3, 2, 1), nn.BatchNorm2d(width))
        self.checkpointed = checkpointed

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        p3 = self.stem(image)
        p4 = checkpoint(self.stage, p3, use_reentrant=False) if self.checkpointed else self.stage(p3)
        return {"p3": p3, "p4": p4}


class Toy(nn.Module):
    """Backbone, and a head that is called once a level. Losses in training, scores in eval mode."""

    def __init__(self, width: int, checkpointed: bool = False):
        super().__init__()
        self.backbone = Backbone(width, checkpointed)
        self.head = nn.Conv2d(width, 2, 1)

    def forward(self, batch: dict) -> dict[str, Tensor] | list[Tensor]:
        scores = [self.head(x) for x in self.backbone(batch["image"]).values()]
        if not self.training:
            return scores
        return {"loss_score": sum((s - 1).square().mean() for s in scores)}


def run_teacher(teacher: Toy, batch: dict) -> None:
    """Notes whether gradients are on."""
    teacher.saw_gradients = torch.is_grad_enabled()
    teacher(batch)


def batch_info(batch: dict) -> BatchInfo:
    size = tuple(batch["image"].shape[2:])
    return BatchInfo([size] * len(batch["image"]), size, batch["boxes"], anchors=_grids)


def _grids(sizes: list[tuple[int, int]]) -> list[AnchorGrid]:
    return [AnchorGrid(torch.tensor([[-6.0, -6, 6, 6]]), (2 * (1 + i), 2 * (1 + i)), s) for i, s in enumerate(sizes)]


def batch(seed: int = 0, boxes: bool = True) -> dict:
    """Two images of 32 x 48 with one and two boxes."""
    image = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(seed))
    found = [torch.tensor([[4.0, 4, 20, 16]]), torch.tensor([[8.0, 2, 14, 30], [30, 10, 44, 20]])]
    return {"image": image, "boxes": found if boxes else [torch.zeros(0, 4), torch.zeros(0, 4)]}


def distiller(blocks: dict, *more: str, tap: str = "fpn=backbone:p3,p4", checkpointed: bool = False) -> Distiller:
    """A student of width 4 and a teacher of width 6, tapped at ``tap`` and ``more``; equal weights at every call."""
    torch.manual_seed(0)
    student, teacher = Toy(4, checkpointed), Toy(6)
    model = make_distiller(
        student,
        teacher,
        taps=[tap, *more],
        losses=blocks,
        run_teacher=run_teacher,
        batch_info=batch_info,
        example_batch={"image": torch.zeros(1, 3, 32, 48)},
        image_size=(32, 48),
    )
    del teacher.saw_gradients
    return model.train()


def unweighted(model: Distiller, batch: dict) -> dict[str, Tensor]:
    """Every loss of distillation with a factor of 1."""
    return model.evaluate(batch, dict.fromkeys(model.losses, 1.0))[1]


def train(model: nn.Module, steps: int) -> list[torch.Tensor]:
    """Momentum SGD on toy batches; the student's own loss of each step."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    seen = []
    for step in range(steps):
        losses = model(batch(step))
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        seen.append(losses["loss_score"].detach())
    return seen
