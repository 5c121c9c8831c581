"""Golden cases of hint learning (FitNets)."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from kd2.losses.features import FeatureDistance
from tests.golden.runners._case import Case
from tests.golden.runners._module import spec


def valid_convolution(case: Case) -> dict[str, Tensor]:
    """A convolution whose kernel also matches the spatial size: its output, both reductions, all gradients."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    found = {}
    for reduction, name in (("mean", "out.loss_mean"), ("half_sum_per_image", "out.loss")):
        loss_module = FeatureDistance(
            [spec(student)], [spec(teacher)], adapter="valid", relu=case.options["relu"], reduction=reduction
        ).double()
        conv = loss_module.adapters[0].conv
        conv.load_state_dict({k: case.arrays[f"param.conv_{k}"] for k in ("weight", "bias")})
        found[name] = loss_module([student], [teacher], BatchInfo([], (0, 0)))
    leaves = {"student": student, "conv_weight": conv.weight, "conv_bias": conv.bias}
    gradients = torch.autograd.grad(found["out.loss"], list(leaves.values()))
    found["out.adapted"] = loss_module.adapters[0](student)
    return found | {f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)}


def fitnet(case: Case) -> dict[str, Tensor]:
    """The form of mdistiller: a strided, transposed or plain convolution, batch norm, ReLU, mean square times 100."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    loss_module = FeatureDistance(
        [spec(student)], [spec(teacher)], adapter="halving", batch_norm=True, relu=True, reduction="mean"
    ).double()
    conv, norm = loss_module.adapters[0].conv, loss_module.adapters[0].norm
    leaves = {"conv_weight": conv.weight, "conv_bias": conv.bias, "bn_weight": norm.weight, "bn_bias": norm.bias}
    with torch.no_grad():
        for name, parameter in leaves.items():
            parameter.copy_(case.arrays[f"in.{name}"])
    loss = case.options["feat_weight"] * loss_module([student], [teacher], BatchInfo([], (0, 0)))
    leaves["student"] = student
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    found = {"out.regressed": loss_module.adapters[0](student), "out.loss": loss}
    return found | {f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)}


CASES = {"hint loss (FitNets)": valid_convolution, "fitnet_hint": fitnet}
