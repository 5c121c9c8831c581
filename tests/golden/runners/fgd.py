"""Golden cases of focal and global distillation."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled, gradients, spec
from kd2.ops.fgd_sums import mean_magnitudes
from kd2.losses.fgd import Fgd, attention

_LAYERS = {
    "student_context": "student",
    "teacher_context": "teacher",
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
    criterion = Fgd([spec(student)], [spec(teacher)], temperature=temperature, scaling="image", **factors)
    block = criterion.to(student.dtype).blocks[0]
    parameters = filled(case, block, _renamed)
    batch_info = _scene(case)
    parts = criterion([student], [teacher], batch_info)
    loss = sum(parts.values())
    found = {"out.loss": loss}
    for part, name in _PARTS.items():
        found[f"out.loss_{name}"] = parts[part] / criterion.factors[part]
    for side, x in (("teacher", teacher), ("student", block.align(student))):
        cells, channels = (attention(mean, temperature) for mean in mean_magnitudes(x.flatten(2)))
        found[f"out.spatial_attention_{side}"] = cells.unflatten(1, x.shape[2:])
        found[f"out.channel_attention_{side}"] = channels
    masks = criterion.masks([(teacher.shape[2], teacher.shape[3])], batch_info)[0]
    found |= {f"out.scale_mask_{name}": mask for name, mask in zip(("foreground", "background"), masks)}
    return found | gradients(case, loss, student, parameters)


def _scene(case: Case) -> BatchInfo:
    sizes = [tuple(size) for size in case.arrays["in.image_sizes"].tolist()]
    padded = tuple(torch.tensor(sizes).amax(0).tolist())
    return BatchInfo(sizes, padded, [case.arrays[f"in.boxes_{i}"] for i in range(len(sizes))])


def _renamed(name: str) -> str:
    return ".".join(_LAYERS.get(part, part) for part in name.split("."))


CASES = {"fgd": focal_and_global}
