"""Golden cases of PKD. A level's arrays carry its name behind theirs; a case of one level has none."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from kd2.losses.pkd import Pkd
from tests.golden.runners._case import Case
from tests.golden.runners._module import spec


def correlated(case: Case) -> dict[str, Tensor]:
    """The loss over all levels, the students' gradients and those of the adapters' weights."""
    names = [name.removeprefix("in.student") for name in case.arrays if name.startswith("in.student")]
    student = [case.leaf(f"in.student{name}") for name in names]
    teacher = [case.arrays[f"in.teacher{name}"] for name in names]
    clipped = case.options.get("padding") == "exclude"
    loss_module = Pkd(
        [spec(s) for s in student], [spec(t) for t in teacher], clip_to_image=clipped, resize=case.options["resize"]
    ).to(student[0].dtype)
    leaves = {f"grad.student{name}": s for name, s in zip(names, student)}
    for name, adapter in zip(names, loss_module.adapters):
        if f"param.align.weight{name}" in case.arrays:
            with torch.no_grad():
                adapter.weight.copy_(case.arrays[f"param.align.weight{name}"].view_as(adapter.weight))
            leaves[f"grad.param.align.weight{name}"] = adapter.weight
    loss = case.options["loss_weight"] * loss_module(student, teacher, _batch_info(case, len(teacher[0])))
    found = torch.autograd.grad(loss, list(leaves.values()))
    return {"out.loss": loss} | {k: g.view_as(case.arrays[k]) for k, g in zip(leaves, found)}


def _batch_info(case: Case, images: int) -> BatchInfo:
    if "in.image_sizes" not in case.arrays:
        return BatchInfo([(1, 1)] * images, (1, 1))
    height, width = case.arrays["in.padded_size"].tolist()
    return BatchInfo([(h, w) for h, w in case.arrays["in.image_sizes"].tolist()], (height, width))


CASES = {"pkd": correlated}
