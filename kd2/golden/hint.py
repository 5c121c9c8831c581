"""Golden cases of hint learning (FitNets)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd2.core import MapSpec, Scene
from kd2.golden._case import Case
from kd2.terms.hint import Hint


def valid_convolution(case: Case) -> dict[str, Tensor]:
    """A regressor whose kernel also matches the spatial size: its output, both reductions, all gradients."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    found = {}
    for reduction, name in (("mean", "out.loss_mean"), ("half_sum_per_image", "out.loss")):
        term = Hint([_spec(student)], [_spec(teacher)], relu=case.options["relu"], reduction=reduction).double()
        regressor = term.regressors[0]
        regressor.load_state_dict({k: case.arrays[f"param.conv_{k}"] for k in ("weight", "bias")})
        found[name] = term([student], [teacher], Scene([], (0, 0)))
    adapted = regressor(student)
    leaves = {"student": student, "conv_weight": regressor.weight, "conv_bias": regressor.bias}
    gradients = torch.autograd.grad(found["out.loss"], list(leaves.values()))
    found["out.adapted"] = F.relu(adapted) if case.options["relu"] else adapted
    return found | {f"grad.{name}": gradient for name, gradient in zip(leaves, gradients)}


def _spec(x: Tensor) -> MapSpec:
    return MapSpec(x.shape[1], (x.shape[2], x.shape[3]), (1.0, 1.0))


CASES = {"hint loss (FitNets)": valid_convolution}
