"""Golden cases of one training step with task loss, PI, PA and HO. Computed in float64."""

import torch
from torch import Tensor, nn

from kd2.distill import BatchInfo, override_groups
from kd2.losses.holistic import Holistic
from kd2.losses.kl import KLDivergence
from kd2.losses.pairwise import Pairwise
from kd2.networks.losses import task_loss
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled, spec
from tests.golden.runners._skd_critic import buffers, double, input_kind, renamed


class StoredShares(Holistic):
    """HO with the mixture of a case."""

    stored: Tensor

    def shares(self, real: Tensor, batch_info: BatchInfo) -> Tensor:
        return self.stored


def step(case: Case) -> dict[str, Tensor]:
    """The student's losses and gradients, the critic's, and the critic after its first optimizer step."""
    options = case.options
    logits, feature = (Sides(case, name) for name in ("logits", "feature"))
    auxiliary = double(case.arrays["in.student_aux_logits"])
    labels = case.arrays["in.label"].long()
    loss_module = holistic(case, logits)
    weights = filled(case, loss_module.critic, renamed)
    task = sum(task_loss(logits.student, auxiliary, labels, options["aux_weight"]).values())
    pixels = options["lambda_pi"] * logits.loss(
        logits.build(KLDivergence, divergence="cross_entropy", reduction="map_mean")
    )
    pairs = feature.loss(feature.build(Pairwise, scale=options["pool_scale"]))
    parts = {name: options["lambda_d"] * part for name, part in logits.loss(loss_module).items()}
    student = task + pixels + options["lambda_pa"] * pairs + parts["student"]
    (student + parts["critic"]).backward()
    slopes = {"student_logits": logits.student, "student_aux_logits": auxiliary, "student_feature": feature.student}
    found = {
        "out.loss_task": task,
        "out.loss_pi_weighted": pixels,
        "out.loss_pa": pairs,
        "out.loss_student": student,
        "out.loss_d": parts["critic"],
    }
    found |= {f"grad.{name}": x.grad.clone() for name, x in (weights | slopes).items()}
    torch.optim.SGD(override_groups(loss_module), momentum=options["sgd_d"]["momentum"]).step()
    return found | {f"out.after_step.{name}": x for name, x in weights.items()} | buffers(case, loss_module.critic)


class Sides:
    """The student's map of one kind, which collects its gradient, and the teacher's."""

    def __init__(self, case: Case, name: str):
        self.student = double(case.arrays[f"in.student_{name}"])
        self.teacher = case.arrays[f"in.teacher_{name}"].double()

    def build(self, kind: type[nn.Module], **options) -> nn.Module:
        """A loss over these maps."""
        return kind([spec(self.student)], [spec(self.teacher)], **options)

    def loss(self, loss_module: nn.Module) -> Tensor | dict[str, Tensor]:
        """What a loss makes of these maps."""
        return loss_module([self.student], [self.teacher], BatchInfo([], (0, 0)))


def holistic(case: Case, logits: Sides) -> StoredShares:
    """The HO loss of a case, its critic not yet filled."""
    solver = case.options["sgd_d"]
    loss_module = logits.build(
        StoredShares,
        loss=case.options["adv_loss_type"],
        input=input_kind(case),
        width=case.options["conv_width"],
        penalty=case.options["lambda_gp"] or 0.0,
        lr=solver["lr"],
        weight_decay=solver["weight_decay"],
    ).double()
    loss_module.stored = case.arrays["in.alpha"].double()
    return loss_module


COMPONENTS = {"one training step": step}
