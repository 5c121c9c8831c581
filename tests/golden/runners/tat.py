"""Golden cases of the target-aware transformer: the whole map, patch groups, anchors, and both together."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd2.distill import BatchInfo
from kd2.losses.tat import Tat, patch_tokens
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled, gradients, spec


def whole_map(case: Case) -> dict[str, Tensor]:
    """The ImageNet code: projections, attention, loss, all gradients; the weighted totals where the case has logits."""
    loss_module, student, maps, parts, parameters = _run(case, heads=case.options["heads"])
    loss = parts["patch"]
    found = {"out.query": maps[0], "out.value": maps[2], "out.loss": loss}
    found |= _matched(case, "out.", _patch_tokens(loss_module, maps))
    found |= _statistics(loss_module) | gradients(case, loss, student, parameters)
    return found | _totals(case, loss, student) if "in.labels" in case.arrays else found


def hierarchical(case: Case) -> dict[str, Tensor]:
    """The segmentation code: both branches, image by image and weighted, their attention, all gradients."""
    options, derived = case.options, case.meta["derived"]
    grouped = options["attn_type"] == "stack_attn"
    loss_module, student, maps, parts, parameters = _run(
        case,
        projection_kernel=1,
        theta="learned",
        statistics="image",
        patch=derived["patch"],
        group=int(derived["patches_per_group"]) if grouped else 1,
        heads=1 if grouped else options["heads"],
        patch_sum=options["attn_type"] == "None",
        anchor_size=derived["anchor_kernel"],
        patch_weight=options["beta"],
        anchor_weight=options["gamma"],
    )
    total = sum(parts.values())
    images = list(zip(*(x.split(1) for x in maps)))
    found = {"out.loss": options["alpha"] * total, "out.loss_sum_over_images": len(images) * total}
    for name, one in (
        ("patchgroup", loss_module.patch_loss),
        ("anchor", loss_module.anchor_loss),
    ):  # stored for weight 0 as well
        found[f"out.loss_{name}_per_image"] = torch.stack([one(image) for image in images])
    found |= _matched(case, "out.patchgroup.", _patch_tokens(loss_module, maps))
    found |= _matched(
        case,
        "out.anchor.",
        _patch_tokens(loss_module, [F.avg_pool2d(x, loss_module.anchor_size) for x in maps], whole=True),
    )
    return found | _statistics(loss_module) | gradients(case, found["out.loss"], student, parameters)


def _run(case: Case, **options) -> tuple:
    """The loss, the student's leaf, the projected maps of one forward pass, its parts, and the parameters by name."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    loss_module = Tat([spec(student)], [spec(teacher)], **options).to(student.dtype).train(case.meta["mode"] == "train")
    adapter, seen = loss_module.adapters[0], []
    parameters = filled(case, adapter)
    with adapter.register_forward_hook(lambda module, inputs, maps: seen.append(maps)):
        parts = loss_module([student], [teacher], BatchInfo([], (0, 0)))
    return loss_module, student, seen[0], parts, parameters


def _patch_tokens(loss_module: Tat, maps: list[Tensor], whole: bool = False) -> list[Tensor]:
    size = (maps[0].shape[2], maps[0].shape[3])
    if whole:
        return [patch_tokens(x, size, 1, 1) for x in maps]
    return [patch_tokens(x, loss_module.patch or size, loss_module.group, loss_module.heads) for x in maps]


def _matched(case: Case, prefix: str, tokens: list[Tensor]) -> dict[str, Tensor]:
    """Attention, reconfigured student and target as the case stores them, written out; empty where it stores none."""
    if f"{prefix}attention" not in case.arrays:
        return {}
    query, key, value, target = tokens
    attention = (query @ key.mT).softmax(-1)
    maps = {"attention": attention, "reconfigured": (attention @ value).mT, "target": target.mT}
    names = [name for name in maps if f"{prefix}{name}" in case.arrays]
    return {prefix + name: maps[name].reshape(case.arrays[prefix + name].shape) for name in names}


def _statistics(loss_module: Tat) -> dict[str, Tensor]:
    return {f"out.{name}": x for name, x in loss_module.adapters[0].named_buffers() if "running" in name}


def _totals(case: Case, loss: Tensor, student: Tensor) -> dict[str, Tensor]:
    """The two published ImageNet weightings of cross-entropy, KL divergence (temperature 1) and this loss."""
    logits, teacher = case.leaf("in.student_logits"), case.arrays["in.teacher_logits"]
    task = F.cross_entropy(logits, case.arrays["in.labels"])
    soft = F.kl_div(logits.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)
    found = {}
    for name, total in (("without_kd", 0.1 * task + 0.2 * loss), ("with_kd", 0.5 * task + 0.5 * soft + 0.1 * loss)):
        slopes = torch.autograd.grad(total, [student, logits], retain_graph=True)
        found[f"out.loss_total_{name}"] = total
        found |= {f"grad.total_{name}.{leaf}": slope for leaf, slope in zip(("student", "student_logits"), slopes)}
    return found


CASES = {
    "TaT plain one-to-all matching (ImageNet variant)": whole_map,
    "TaT patch-group": hierarchical,
    "TaT anchor-point": hierarchical,
    "TaT hierarchical (segmentation variant)": hierarchical,
}
