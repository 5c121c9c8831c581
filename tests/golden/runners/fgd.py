"""Golden cases of focal and global distillation."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from kd2.losses.fgd import Fgd, attentions
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled, gradients, spec

_LAYERS = {
    "align": "adapters.0",
    "student_context": "contexts.0.student",
    "teacher_context": "contexts.0.teacher",
    "reduce": "add.0",
    "norm": "add.1",
    "expand": "add.3",
}
_PARTS = {"fg": "foreground", "bg": "background", "att": "attention", "global": "global"}
_FACTORS = {
    "alpha_fg": "alpha_foreground",
    "beta_bg": "beta_background",
    "gamma_att": "gamma_attention",
    "lambda_global": "lambda_global",
}


def focal_and_global(case: Case) -> dict[str, Tensor]:
    """The loss and its four parts before their factors, attentions of both sides, both scale masks, all gradients."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    temperature = case.options["temperature"]
    factors = {option: case.options[name] for option, name in _FACTORS.items()}
    loss_module = Fgd([spec(student)], [spec(teacher)], temperature=temperature, scaling="image", **factors)
    loss_module.to(student.dtype)
    parameters = filled(case, loss_module, _renamed)
    batch_info = _batch_info(case)
    parts = loss_module([student], [teacher], batch_info)
    loss = sum(parts.values())
    found = {"out.loss": loss}
    for part, name in _PARTS.items():
        found[f"out.loss_{name}"] = parts[part] / loss_module.factors[part]
    for side, x in (("teacher", teacher), ("student", loss_module.adapters[0](student))):
        cells, channels = attentions(x.flatten(2), temperature)
        found[f"out.spatial_attention_{side}"] = cells.unflatten(1, x.shape[2:])
        found[f"out.channel_attention_{side}"] = channels
    masks = loss_module.masks([(teacher.shape[2], teacher.shape[3])], batch_info)[0]
    found |= {f"out.scale_mask_{name}": masks[part] for part, name in (("fg", "foreground"), ("bg", "background"))}
    return found | gradients(case, loss, student, parameters)


def _batch_info(case: Case) -> BatchInfo:
    sizes = [tuple(size) for size in case.arrays["in.image_sizes"].tolist()]
    padded = tuple(torch.tensor(sizes).amax(0).tolist())
    return BatchInfo(sizes, padded, [case.arrays[f"in.boxes_{i}"] for i in range(len(sizes))])


def _renamed(name: str) -> str:
    return ".".join(_LAYERS.get(part, part) for part in name.split("."))


CASES = {"fgd": focal_and_global}
