"""FGD: its scale masks against the loop over boxes, the whole loss against its formula."""

import torch
from torch import Tensor, nn

from benchmarks import Case
from kd2.distill import BatchInfo, FeatureSpec
from kd2.losses.fgd import Fgd, fgd_parts, scale_mask
from kd2.ops.scale_masks import scale_masks

_IMAGE = (800, 1088)


def masks(device: torch.device) -> Case:
    """P3 to P7 of two 800 x 1088 images with 20 boxes each."""
    sizes = [(100, 136), (50, 68), (25, 34), (13, 17), (7, 9)]
    boxes = [b.to(device) for b in _boxes(20)]

    def ours() -> list[Tensor]:
        return [mask for pair in scale_masks(boxes, sizes, [_IMAGE] * 2, [_IMAGE] * 2) for mask in pair]

    return Case(ours, lambda: [mask for size in sizes for mask in _looped_masks(boxes, size)], tolerance=1e-6)


def loss(device: torch.device) -> Case:
    """One map of 2 x 256 x 100 x 136 with 10 boxes an image, forward and backward."""
    torch.manual_seed(0)
    student = torch.randn(2, 256, 100, 136, device=device, requires_grad=True)
    teacher = torch.randn(2, 256, 100, 136, device=device)
    spec = [FeatureSpec(256, (100, 136), (8, 8))]
    fgd = Fgd(spec, spec).to(device)
    sides = fgd.contexts[0]["student"], fgd.contexts[0]["teacher"]
    for side in sides:  # zero at the start, and then most gradients are zero
        nn.init.normal_(side.add[3].weight, std=0.1)
    batch_info = BatchInfo([_IMAGE] * 2, _IMAGE, _boxes(10))
    # The bias of the mask shifts all logits of a softmax: its gradient is zero up to rounding.
    leaves = [student, *(p for name, p in fgd.named_parameters() if not name.endswith("mask.bias"))]

    def formula() -> list[Tensor]:
        weights = [mask.to(device) for mask in _looped_masks(batch_info.boxes, (100, 136))]
        parts = fgd_parts(student, teacher, weights[0], weights[1], 0.5, sides)
        return [fgd.factors[name] * part for name, part in parts.items()]

    def ours() -> list[Tensor]:
        return list(fgd([student], [teacher], batch_info).values())

    # The attention part is an L1 distance: where attentions are equal up to rounding, its slope may have either sign.
    return Case(ours, formula, tolerance=1e-3, leaves=leaves)


def _looped_masks(boxes: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
    images = [scale_mask(of_image, size, _IMAGE) for of_image in boxes]
    return [torch.stack(kind) for kind in zip(*images, strict=True)]


def _boxes(count: int) -> list[Tensor]:
    """Boxes (count, 4) of two images, 16 to 416 pixels a side."""
    draw = torch.rand(2, count, 4, generator=torch.Generator().manual_seed(0))
    sides = 16 + 400 * draw[..., :2] ** 2
    corner = draw[..., 2:] * (torch.tensor([_IMAGE[1], _IMAGE[0]]) - sides)
    return list(torch.cat([corner, corner + sides], 2))


CASES = {"fgd_masks": masks, "fgd": loss}
