"""Golden cases of hint learning (FitNets)."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from tests.golden.runners._case import Case
from tests.golden.runners._module import spec
from kd2.losses.hint import Hint


def valid_convolution(case: Case) -> dict[str, Tensor]:
    """A regressor whose kernel also matches the spatial size: its output, both reductions, all gradients."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    found = {}
    for reduction, name in (("mean", "out.loss_mean"), ("half_sum_per_image", "out.loss")):
        criterion = Hint([spec(student)], [spec(teacher)], relu=case.options["relu"], reduction=reduction).double()
        regressor = criterion.regressors[0]
        regressor.load_state_dict({k: case.arrays[f"param.conv_{k}"] for k in ("weight", "bias")})
        found[name] = criterion([student], [teacher], BatchInfo([], (0, 0)))
    leaves = {"student": student, "conv_weight": regressor.weight, "conv_bias": regressor.bias}
    gradients = torch.autograd.grad(found["out.loss"], list(leaves.values()))
    found["out.adapted"] = criterion.adapted(student, 0)
    return found | {f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)}


def fitnet(case: Case) -> dict[str, Tensor]:
    """The form of mdistiller: a strided, transposed or plain convolution, batch norm, ReLU, mean square times 100."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    criterion = Hint([spec(student)], [spec(teacher)], kernel="halving", batch_norm=True, reduction="mean").double()
    regressor, norm = criterion.regressors[0], criterion.norms[0]
    leaves = {"conv_weight": regressor.weight, "conv_bias": regressor.bias, "bn_weight": norm.weight, "bn_bias": norm.bias}
    with torch.no_grad():
        for name, parameter in leaves.items():
            parameter.copy_(case.arrays[f"in.{name}"])
    loss = case.options["feat_weight"] * criterion([student], [teacher], BatchInfo([], (0, 0)))
    leaves["student"] = student
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    found = {"out.regressed": criterion.adapted(student, 0), "out.loss": loss}
    return found | {f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)}


CASES = {"hint loss (FitNets)": valid_convolution, "fitnet_hint": fitnet}
