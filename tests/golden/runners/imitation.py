"""Golden cases of fine-grained feature imitation: masks, the loss on one map, and the loss over an FPN."""

import torch
from torch import Tensor

from kd2.distill import AnchorGrid, BatchInfo, FeatureSpec
from kd2.losses.imitation import Imitation
from kd2.ops.masks import anchor_masks, best_iou
from tests.golden.runners._case import Case

_MODES = {"I": "anchors", "F": "full", "G": "gt_box"}


def masks(case: Case) -> dict[str, Tensor]:
    """Masks and best IoUs of one map, with inclusive and with continuous pixel coordinates."""
    boxes, grid = _boxes(case), _grid(case.arrays["in.anchors"], case.options["stride"])
    found = {}
    for suffix, plus_one in (("", True), ("_noplus1", False)):
        found[f"out.mask{suffix}"] = anchor_masks(boxes, [grid], float(case.arrays["in.psi"]), plus_one=plus_one)[0]
        best = best_iou(boxes, [grid], plus_one)[:, 0].split([len(b) for b in boxes])
        found[f"out.max_iou{suffix}"] = torch.stack([_padded(b, case.arrays["in.gt_boxes"].shape[1]) for b in best])
    # The interval form never counts matches; stored counts are right when they are positive just where the mask is.
    counts = case.arrays["out.count"]
    found["out.count"] = torch.where(found["out.mask"], counts.clamp(min=1), 0)
    return found


def loss(case: Case) -> dict[str, Tensor]:
    """The loss on one map: mask, loss, gradients of the student and of the adapter."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    stride = case.options.get("stride", 1)
    has_anchors = "in.anchors" in case.arrays
    loss_module = _loss(
        [_spec(student, stride)],
        [_spec(teacher, stride)],
        case.options["adapter"],
        mode=_MODES[case.meta["variant"]],
        psi=float(case.arrays.get("in.psi", 0.5)),
        plus_one=case.meta["iou_convention"].startswith("inclusive"),
        anchors="student" if has_anchors else "retinanet",
    )
    parameters = {}
    if loss_module.adapters is not None:
        parameters = {
            "conv_weight": loss_module.adapters[0].conv.weight,
            "conv_bias": loss_module.adapters[0].conv.bias,
        }
        _fill(case, parameters)
    batch_info = _batch_info(case, len(teacher), [_grid(case.arrays["in.anchors"], stride)] if has_anchors else [])
    value = loss_module([student], [teacher], batch_info)
    leaves = {"student": student} | parameters
    gradients = torch.autograd.grad(value, list(leaves.values()))
    return {
        "out.loss": value,
        "out.mask": loss_module.masks([tuple(teacher.shape[2:])], len(teacher), batch_info)[0],
        **{f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)},
    }


def pyramid(case: Case) -> dict[str, Tensor]:
    """The loss over FPN levels, under both level rules and both reductions; gradients of the default loss."""
    levels = [name.removeprefix("in.student.") for name in case.arrays if name.startswith("in.student.")]
    student = [case.leaf(f"in.student.{level}") for level in levels]
    teacher = [case.arrays[f"in.teacher.{level}"] for level in levels]
    strides = case.options["strides"]
    grids = [_grid(case.arrays[f"in.anchors.{level}"], stride) for level, stride in zip(levels, strides)]
    batch_info = _batch_info(case, len(teacher[0]), grids)
    specs = [[_spec(x, stride) for x, stride in zip(maps, strides)] for maps in (student, teacher)]
    found = {}
    for rule, rule_name in (("joint", ""), ("per_level", "_per_level")):
        for reduction, reduction_name in (("level_mean", ""), ("pooled_mean", "_pooled")):
            psi = float(case.arrays["in.psi"])
            loss_module = _loss(*specs, case.options["adapter"], psi=psi, level_rule=rule, reduction=reduction)
            for level, adapter in zip(levels, loss_module.adapters or []):
                _fill(case, {f"conv_weight.{level}": adapter.conv.weight, f"conv_bias.{level}": adapter.conv.bias})
            found[f"out.loss{reduction_name}{rule_name}"] = loss_module(student, teacher, batch_info)
        masks = loss_module.masks([grid.size for grid in grids], len(teacher[0]), batch_info)
        found |= {f"out.mask{rule_name}.{level}": mask for level, mask in zip(levels, masks)}
    gradients = torch.autograd.grad(found["out.loss"], student)
    return found | {f"grad.student.{level}": gradient for level, gradient in zip(levels, gradients)}


def _loss(student: list[FeatureSpec], teacher: list[FeatureSpec], adapter: str, **options) -> Imitation:
    kind = "none" if adapter == "none" else "conv3x3"
    return Imitation(student, teacher, adapter=kind, relu="+ relu" in adapter, **options).double()


def _fill(case: Case, parameters: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(case.arrays[f"param.{name}"])


def _boxes(case: Case) -> list[Tensor]:
    """Boxes (M_n, 4) of each image, without the padding rows."""
    counts = case.arrays["in.num_boxes"].tolist()
    return [boxes[:count] for boxes, count in zip(case.arrays["in.gt_boxes"], counts)]


def _grid(anchors: Tensor, stride: float) -> AnchorGrid:
    """The grid whose dense anchors are (H, W, K, 4)."""
    return AnchorGrid(anchors[0, 0], (stride, stride), (anchors.shape[0], anchors.shape[1]))


def _batch_info(case: Case, images: int, grids: list[AnchorGrid]) -> BatchInfo:
    boxes = _boxes(case) if "in.gt_boxes" in case.arrays else []
    return BatchInfo([(0, 0)] * images, (0, 0), boxes, anchors=lambda sizes: grids)


def _spec(x: Tensor, stride: float) -> FeatureSpec:
    return FeatureSpec(x.shape[1], (x.shape[2], x.shape[3]), (stride, stride))


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, length - len(values)))


CASES = {
    "imitation mask": masks,
    "imitation loss": loss,
    "imitation mask and loss over FPN levels": pyramid,
}
