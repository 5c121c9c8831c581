"""Detectors with drawn weights in the form of the files of Detectron2's zoo, written down by hand: no Detectron2 here.

Weights are drawn so that maps stay in a moderate range behind a hundred layers and heads find some objects.
"""

import math
import pickle
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

ADDRESS = "dl.fbaipublicfiles.com/detectron2"
RETINANET = "COCO-Detection/retinanet_R_101_FPN_3x"
BLOCKS = {"R_50": (3, 4, 6, 3), "R_101": (3, 4, 23, 3), "X_101": (3, 4, 23, 3)}
Parts = Iterator[tuple[str, Tensor]]


def detector(family: str, body: str, classes: int = 80, seed: int = 0) -> dict[str, Tensor]:
    """The entry ``model`` of a file of the zoo.

    Args:
        family: retinanet, faster_rcnn, mask_rcnn or cascade_mask_rcnn.
        body: R_50, R_101 or X_101.
    """
    draw = torch.Generator().manual_seed(seed)
    state = {f"backbone.bottom_up.{name}": value for name, value in resnet(body, draw)}
    first = 3 if family == "retinanet" else 2
    for level in range(first, 6):
        state |= _conv(f"backbone.fpn_lateral{level}", 256, 128 * 2 ** (level - 1), 1, draw, 0.15)
        state |= _conv(f"backbone.fpn_output{level}", 256, 256, 3, draw, 0.7)
    return state | dict(_retinanet(classes, draw) if family == "retinanet" else _rcnn(family, classes, draw))


def resnet(body: str, draw: torch.Generator) -> Parts:
    """A ResNet under Detectron2's names, without the prefix."""
    group_factor, groups = (4, 32) if body == "X_101" else (1, 1)
    yield from _conv("stem.conv1", 64, 3, 7, draw, bias=False).items()
    # Pixels minus their mean have a deviation of about 75; X101 divides by their deviation.
    yield from _norm("stem.conv1", 64, draw, 1.0, 40.0 if body == "X_101" else 1e4).items()
    channels, last = 64, 1.2 / math.sqrt(sum(BLOCKS[body]))
    for stage, count in enumerate(BLOCKS[body]):
        middle, out = 64 * 2**stage * group_factor, 256 * 2**stage
        for block in range(count):
            place = f"res{stage + 2}.{block}"
            if not block:
                yield from _conv(f"{place}.shortcut", out, channels, 1, draw, bias=False).items()
                yield from _norm(f"{place}.shortcut", out, draw).items()
            yield from _conv(f"{place}.conv1", middle, channels, 1, draw, bias=False).items()
            yield from _conv(f"{place}.conv2", middle, middle // groups, 3, draw, bias=False).items()
            yield from _conv(f"{place}.conv3", out, middle, 1, draw, bias=False).items()
            for i, width in enumerate((middle, middle, out), 1):
                yield from _norm(f"{place}.conv{i}", width, draw, last if i == 3 else 1.0).items()
            channels = out


def write(state: dict[str, Tensor], path: Path) -> None:
    """A pickle as the zoo has it: NumPy arrays under ``model``, and ``__author__``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: value.numpy() for name, value in state.items()}
    with open(path, "wb") as file:
        pickle.dump({"model": arrays, "__author__": "Detectron2 Model Zoo"}, file)


def _retinanet(classes: int, draw: torch.Generator) -> Parts:
    yield from _conv("backbone.top_block.p6", 256, 2048, 3, draw, 0.3).items()
    yield from _conv("backbone.top_block.p7", 256, 256, 3, draw).items()
    for tower in ("cls_subnet", "bbox_subnet"):
        for i in range(4):
            yield from _conv(f"head.{tower}.{2 * i}", 256, 256, 3, draw).items()
    yield from _conv("head.cls_score", 9 * classes, 256, 3, draw, 0.5).items()
    yield from _conv("head.bbox_pred", 36, 256, 3, draw, 0.1).items()


def _rcnn(family: str, classes: int, draw: torch.Generator) -> Parts:
    yield from _conv("proposal_generator.rpn_head.conv", 256, 256, 3, draw).items()
    yield from _conv("proposal_generator.rpn_head.objectness_logits", 3, 256, 1, draw).items()
    yield from _conv("proposal_generator.rpn_head.anchor_deltas", 12, 256, 1, draw, 0.1).items()
    cascade = family.startswith("cascade")
    for stage in (".0", ".1", ".2") if cascade else ("",):
        yield from _conv(f"roi_heads.box_head{stage}.fc1", 1024, 256 * 49, 0, draw).items()
        yield from _conv(f"roi_heads.box_head{stage}.fc2", 1024, 1024, 0, draw).items()
        yield from _conv(f"roi_heads.box_predictor{stage}.cls_score", classes + 1, 1024, 0, draw, 2.0).items()
        yield from _conv(
            f"roi_heads.box_predictor{stage}.bbox_pred", 4 * (1 if cascade else classes), 1024, 0, draw
        ).items()
    if "mask" in family:
        for i in range(1, 5):
            yield from _conv(f"roi_heads.mask_head.mask_fcn{i}", 256, 256, 3, draw).items()
        yield from _conv("roi_heads.mask_head.deconv", 256, 256, 2, draw).items()
        yield from _conv("roi_heads.mask_head.predictor", classes, 256, 1, draw).items()


def _conv(
    name: str, out: int, channels: int, kernel: int, draw: torch.Generator, gain: float = 1.0, bias: bool = True
) -> dict[str, Tensor]:
    """A convolution, or a linear layer where ``kernel`` is 0, that keeps the variance of what a ReLU let through."""
    shape = (out, channels, kernel, kernel) if kernel else (out, channels)
    scale = gain * math.sqrt(2 / math.prod(shape[1:]))
    found = {f"{name}.weight": torch.randn(shape, generator=draw) * scale}
    return found | ({f"{name}.bias": torch.randn(out, generator=draw) * 0.1} if bias else {})


def _norm(
    name: str, channels: int, draw: torch.Generator, gain: float = 1.0, variance: float = 1.0
) -> dict[str, Tensor]:
    def around(center: float) -> Tensor:
        return center * (0.8 + 0.4 * torch.rand(channels, generator=draw))

    mean, bias = (torch.randn(channels, generator=draw) * 0.1 for _ in range(2))
    names = ("weight", "bias", "running_mean", "running_var")
    values = (around(gain), bias, mean * math.sqrt(variance), around(variance))
    return {f"{name}.norm.{kind}": value for kind, value in zip(names, values, strict=True)}
