"""FGD: its scale masks against the loop over boxes, the whole loss against the formula written out."""

import torch
from torch import Tensor, nn

from benchmarks import Case
from kd2.distill import FeatureSpec, BatchInfo
from kd2.ops.scale_masks import scale_masks
from kd2.losses.fgd import Context, Fgd

_IMAGE = (800, 1088)


def masks(device: torch.device) -> Case:
    """P3 to P7 of two 800 x 1088 images with 20 boxes each."""
    sizes = [(100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
    boxes = [b.to(device) for b in _boxes(20)]

    def ours() -> list[Tensor]:
        return [mask for pair in scale_masks(boxes, sizes, [_IMAGE] * 2, [_IMAGE] * 2) for mask in pair]

    def reference() -> list[Tensor]:
        return [mask for size in sizes for mask in _looped_masks(boxes, size)]

    return Case(ours, reference, tolerance=1e-6)


def criterion(device: torch.device) -> Case:
    """One map of 2 x 256 x 100 x 136 with 10 boxes an image, forward and backward."""
    torch.manual_seed(0)
    student = torch.randn(2, 256, 100, 136, device=device, requires_grad=True)
    teacher = torch.randn(2, 256, 100, 136, device=device)
    spec = [FeatureSpec(256, (100, 136), (8, 8))]
    fgd = Fgd(spec, spec).to(device)
    sides = (fgd.blocks[0].student, fgd.blocks[0].teacher)
    for side in sides:  # zero at the start, and then most gradients are zero
        nn.init.normal_(side.add[3].weight, std=0.1)
    batch_info = BatchInfo([_IMAGE] * 2, _IMAGE, _boxes(10))
    # The bias of the mask shifts all logits of a softmax: its gradient is zero up to rounding.
    leaves = [student, *(p for name, p in fgd.named_parameters() if not name.endswith("mask.bias"))]

    def ours() -> list[Tensor]:
        parts = list(fgd([student], [teacher], batch_info).values())
        return [*parts, *torch.autograd.grad(sum(parts), leaves)]

    def reference() -> list[Tensor]:
        weights = [mask.to(device)[:, None] for mask in _looped_masks(batch_info.boxes, (100, 136))]
        parts = [f * part for f, part in zip((1e-3, 5e-4, 5e-4, 5e-6), _parts(student, teacher, weights, sides))]
        return [*parts, *torch.autograd.grad(sum(parts), leaves)]

    # The attention part is an L1 distance: where attentions are equal up to rounding, its slope may have either sign.
    return Case(ours, reference, tolerance=1e-3)


def _parts(x: Tensor, t: Tensor, weights: list[Tensor], sides: tuple[Context, Context]) -> list[Tensor]:
    """The four parts as the paper writes them."""
    cells, channels = _attentions(t)
    error = cells * channels * (x - t) ** 2
    fg, bg = ((weight * error).sum() for weight in weights)
    att = sum((a - b).abs().sum() for a, b in zip(_attentions(x), (cells, channels)))
    relation = ((_related(x, sides[0]) - _related(t, sides[1])) ** 2).sum()
    return [part / len(x) for part in (fg, bg, att, relation)]


def _attentions(x: Tensor) -> tuple[Tensor, Tensor]:
    n, channels, height, width = x.shape
    cells = height * width * (x.abs().mean(1).view(n, -1) / 0.5).softmax(1)
    return cells.view(n, 1, height, width), channels * (x.abs().mean((2, 3), keepdim=True) / 0.5).softmax(1)


def _related(x: Tensor, side: Context) -> Tensor:
    logits = nn.functional.conv2d(x, side.mask.weight[..., None, None], side.mask.bias)
    pooled = (x * logits.flatten(2).softmax(2).view_as(logits)).sum((2, 3))
    return x + side.add(pooled)[..., None, None]


def _looped_masks(boxes: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """The masks box by box, as the authors paint them."""
    (height, width), (h, w) = size, _IMAGE
    foreground = torch.zeros(len(boxes), height, width, device=boxes[0].device)
    background = torch.zeros_like(foreground)
    for image, box in enumerate(boxes):
        left, right = (box[:, 0] / w * width).floor().int(), (box[:, 2] / w * width).ceil().int()
        top, bottom = (box[:, 1] / h * height).floor().int(), (box[:, 3] / h * height).ceil().int()
        weight = 1 / ((bottom - top + 1) * (right - left + 1))
        for j in range(len(box)):
            area = foreground[image, top[j] : bottom[j] + 1, left[j] : right[j] + 1]
            area.copy_(torch.maximum(area, weight[j]))
        background[image] = torch.where(foreground[image] > 0, 0.0, 1.0)
        if background[image].sum():
            background[image] /= background[image].sum()
    return [foreground, background]


def _boxes(count: int) -> list[Tensor]:
    """Boxes (count, 4) of two images, 16 to 416 pixels a side."""
    draw = torch.rand(2, count, 4, generator=torch.Generator().manual_seed(0))
    sides = 16 + 400 * draw[..., :2] ** 2
    corner = draw[..., 2:] * (torch.tensor([_IMAGE[1], _IMAGE[0]]) - sides)
    return list(torch.cat([corner, corner + sides], 2))


CASES = {"fgd_masks": masks, "fgd": criterion}
