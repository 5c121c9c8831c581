"""Golden cases of masked generative distillation. Each stores a mask, which replaces the loss's own draw."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from kd2.losses.kl import channel_divergences
from kd2.losses.mgd import Mgd
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled, gradients, spec


class StoredMask(Mgd):
    """MGD with the mask of a case. Ratio 0 draws none, and the loss's own rule holds."""

    stored: Tensor

    def mask(self, x: Tensor, level: int, batch_info: BatchInfo) -> Tensor | None:
        return self.stored if self.ratio > 0 else super().mask(x, level, batch_info)


def masked_generation(case: Case) -> dict[str, Tensor]:
    """The loss, input and output of the generation block, all gradients; the logit loss where the case has logits."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    options = {"ratio": case.options["mask_ratio"], "unit": case.options["mask_unit"]}
    loss_module = StoredMask([spec(student)], [spec(teacher)], **options)
    loss_module.to(student.dtype).stored = case.arrays["in.mask"]
    parameters = filled(case, loss_module, _renamed)
    batch_info = BatchInfo([(1, 1)] * len(teacher), (1, 1))
    feature = case.options["alpha"] * loss_module([student], [teacher], batch_info)
    masked = loss_module.adapters[0](student) * loss_module.stored
    generated = loss_module.generations[0](masked)
    found = {
        "out.masked_student": masked,
        "out.generated": generated,
        "out.sum_squared_error_per_image": (generated - teacher).square().sum((1, 2, 3)),
    }
    logits = _logits(case)
    loss = feature + logits["out.loss_logits"] if logits else feature
    return found | logits | {"out.loss": loss, "out.loss_feature": feature} | gradients(case, loss, student, parameters)


def _logits(case: Case) -> dict[str, Tensor]:
    """The channel-wise logit loss of the segmentation recipes; empty for a case without logits."""
    if "in.student_logits" not in case.arrays:
        return {}
    student, teacher = case.leaf("in.student_logits"), case.arrays["in.teacher_logits"]
    loss = (
        case.options["logit_weight"] * channel_divergences(student, teacher, case.options["logit_temperature"]).mean()
    )
    return {"out.loss_logits": loss, "grad.student_logits": torch.autograd.grad(loss, student, retain_graph=True)[0]}


def _renamed(name: str) -> str:
    return name.replace("align.", "adapters.0.").replace("generation.", "generations.0.")


CASES = {"mgd": masked_generation}
