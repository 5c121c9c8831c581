"""A tiny segmentation network and its distiller, for tests of the losses over score maps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kd2.distill import BatchInfo, Distiller
from kd2.engine.build import make_distiller

CLASSES, SIZE = 3, (64, 64)
STRUCTURED = {
    "pixelwise": {"TAP": "score", "WEIGHT": 10.0},
    "pairwise": {"TAP": "feature", "WEIGHT": 10.0, "PATCH": [8, 8]},
    "holistic": {"TAP": "score", "WEIGHT": 0.1, "INPUT": "tanh", "WIDTH": 2, "LR": 0.05},
}
# The same with shares of the student's own gradient, measured in the first two steps.
SHARED = {
    name: {key: x for key, x in block.items() if key != "WEIGHT"} | {"SHARE": 0.5, "CALIBRATE_ITERS": 1}
    for name, block in STRUCTURED.items()
}


class Segmenter(nn.Module):
    """Taps ``stem`` and ``classifier``, both at the size of the image. Nothing couples the images of a batch."""

    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.GroupNorm(2, width), nn.Softplus())
        self.classifier = nn.Conv2d(width, CLASSES, 1)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor] | Tensor:
        scores = self.classifier(self.stem(batch["image"]))
        return {"loss_seg": F.cross_entropy(scores, batch["label"])} if self.training else scores


def batch_info(batch: dict) -> BatchInfo:
    return BatchInfo([SIZE] * len(batch["image"]), SIZE, labels=batch["label"], images=lambda: batch["image"])


def batch(step: int, images: slice = slice(None)) -> dict[str, Tensor]:
    """Some of four images and their labels."""
    draw = torch.Generator().manual_seed(step)
    image, label = torch.randn(4, 3, *SIZE, generator=draw), torch.randint(CLASSES, (4, *SIZE), generator=draw)
    return {"image": image[images], "label": label[images]}


def distiller(blocks: dict = STRUCTURED) -> Distiller:
    """Equal weights at every call."""
    torch.manual_seed(0)
    model = make_distiller(
        Segmenter(4),
        Segmenter(6),
        taps=["feature=stem", "score=classifier"],
        losses=blocks,
        batch_info=batch_info,
        example_batch=batch(0, slice(1)),
        image_size=SIZE,
    )
    return model.train()


def optimizer(model: Distiller) -> torch.optim.Optimizer:
    """SGD over the student and the losses, parts with a solver of their own in groups of their own."""
    return torch.optim.SGD(model.parameter_groups(0.05), momentum=0.9)
