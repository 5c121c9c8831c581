"""Golden cases of the critic: its scores, its losses, its gradient penalty. Computed in float64."""

import re

import numpy as np
import torch
from torch import Tensor, nn

from kd2.distill import ParameterGroupOverride
from kd2.losses.holistic import critic_loss, gradient_penalty
from kd2.networks.critic import Critic
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled

_INPUTS = {"batch norm, training mode": "batch_norm", "tanh": "tanh"}
_NAMES = {"weight_bar": "weight", "weight_u": "u", "weight_v": "v"}


def renamed(name: str) -> str:
    """The critic's own name for a parameter or buffer of the cases."""
    part, _, leaf = name.partition(".")
    leaf = _NAMES.get(leaf, leaf)
    if part == "conv5":
        return f"last.{leaf}"
    if part == "bn_in":
        return f"norm.{leaf}"
    kind, number = re.fullmatch(r"(conv|attn)(\d)", part).groups()
    return f"{'convs' if kind == 'conv' else 'attentions'}.{int(number) - 1}.{leaf}"


def input_kind(case: Case) -> str:
    """The critic's ``input`` option for what the json says of it."""
    return _INPUTS[case.options["preprocess"].split(" (")[0]]


def discriminator(case: Case) -> dict[str, Tensor]:
    """Scores and input gradient, attention maps, and what a call leaves in the buffers."""
    scores = double(case.arrays["in.score_map"])
    critic = Critic(
        scores.shape[1], case.options["conv_width"], input_kind(case), False, ParameterGroupOverride(0, 0)
    ).double()
    if "parameter_formula" in case.meta:
        fill_by_formula(case, critic)
    else:
        filled(case, critic, renamed)
    third, fourth, last = critic.features(scores)
    found = {"out.score": critic.last(last)}
    found["grad.score_map"] = torch.autograd.grad(found["out.score"].sum(), scores)[0]
    maps = [attend.attention(x) for attend, x in zip(critic.attentions, (third, fourth))]
    found |= {f"out.attn{i}": attention.mean(0) for i, attention in enumerate(maps, 1)}
    found["out.attn2_row0"] = maps[1][:, 0]
    found |= buffers(case, critic)
    return found | {"out.score_second_call": critic(scores)}


def buffers(case: Case, critic: Critic) -> dict[str, Tensor]:
    """Copies of those buffers that the case stores."""
    own = dict(critic.named_buffers())
    stored = [key.removeprefix("out.") for key in case.checked if re.match(r"out\.(conv\d|bn_in)\.", key)]
    return {f"out.{name}": own[renamed(name)].clone() for name in stored}


def conference(case: Case) -> dict[str, Tensor]:
    """The conditional form: image, then softmax."""
    scores = double(case.arrays["in.score_map"])
    critic = Critic(scores.shape[1], case.options["conv_width"], "softmax", True, ParameterGroupOverride(0, 0)).double()
    filled(case, critic, renamed)
    image = nn.functional.interpolate(
        case.arrays["in.image"].double(), scores.shape[2:], mode="bilinear", align_corners=True
    )
    found = critic(scores, image)
    return {"out.score": found.flatten(), "grad.score_map": torch.autograd.grad(found.sum(), scores)[0]}


def fill_by_formula(case: Case, module: nn.Module) -> None:
    """Weights from a hash of their index, see ``parameter_formula`` in the json."""
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, rule in case.meta["parameters"].items():
        target = tensors[renamed(name)]
        h = np.arange(target.numel(), dtype=np.uint32) * np.uint32(0x9E3779B1) + np.uint32(rule["seed"])
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            h = (h ^ (h >> np.uint32(shift))) * np.uint32(factor)
        value = np.float32((h.astype(np.float64) / 2**31 - 1) * rule["scale"] + rule["offset"])
        target.data.copy_(torch.from_numpy(value).view_as(target))


def adversarial(case: Case) -> dict[str, Tensor]:
    """The losses of given scores."""
    leaves = {name: double(case.arrays[f"in.d_out_{name}"]) for name in ("student", "teacher")}
    found = {
        "loss_d": critic_loss(leaves["teacher"], leaves["student"], case.options["adv_loss_type"]),
        "loss_g": -leaves["student"].mean(),
    }
    slopes = {}
    for name in (key for key in case.checked if key.startswith("grad.")):
        _, loss, leaf = name.split(".")
        slopes[name] = torch.autograd.grad(found[loss], leaves[leaf.removeprefix("d_out_")], retain_graph=True)[0]
    return {f"out.{name}": loss for name, loss in found.items()} | slopes


def penalty(case: Case) -> dict[str, Tensor]:
    """Ten times the penalty, its gradients in the critic's weights, and the norms where the case stores them."""
    fake, real = (double(case.arrays[f"in.{side}_logits"]) for side in ("student", "teacher"))
    share = case.arrays["in.alpha"].double()
    if "conv_width" in case.options:
        critic = Critic(
            fake.shape[1], case.options["conv_width"], input_kind(case), False, ParameterGroupOverride(0, 0)
        ).double()
        weights = filled(case, critic, renamed)
    else:
        critic = SmoothCritic(fake.shape[1]).double()
        weights = filled(case, critic)
    loss = case.options["lambda_gp"] * gradient_penalty(critic, real, fake, share)
    leaves = [name for name in weights if f"grad.{name}" in case.arrays]
    slopes = torch.autograd.grad(loss, [weights[name] for name in leaves], retain_graph=True)
    found = {"out.loss": loss} | {f"grad.{name}": slope for name, slope in zip(leaves, slopes)}
    (student,) = torch.autograd.grad(loss, fake, allow_unused=True)
    found["grad.student_logits"] = torch.zeros_like(fake) if student is None else student
    if "out.grad_norm" in case.arrays:
        x = (share.view(-1, 1, 1, 1) * (real - fake) + fake).detach().requires_grad_()
        found["out.grad_norm"] = torch.autograd.grad(critic(x).sum(), x)[0].flatten(1).norm(dim=1)
    return found


class SmoothCritic(nn.Module):
    """The small critic of one case."""

    def __init__(self, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(classes, 6, 3, stride=2)
        self.conv2 = nn.Conv2d(6, 1, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).tanh())


def double(x: Tensor) -> Tensor:
    """A float64 leaf."""
    return x.double().requires_grad_()


COMPONENTS = {
    "discriminator": discriminator,
    "discriminator, conference branch (conditional)": conference,
    "adversarial": adversarial,
    "gradient penalty": penalty,
}
