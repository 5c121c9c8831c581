"""Golden cases of masked generative distillation. Each stores a mask, which replaces the loss's own draw."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from tests.golden.runners._case import Case
from tests.golden.runners._module import filled, gradients, spec
from kd2.losses.channel_kd import channel_divergence
from kd2.losses.mgd import Mgd


class StoredMask(Mgd):
    """MGD with the mask of a case. Ratio 0 draws none, and the loss's own rule holds."""

    mask: Tensor

    def factors(self, x: Tensor, level: int, batch_info: BatchInfo) -> Tensor | None:
        return self.mask if self.ratio > 0 else super().factors(x, level, batch_info)


def masked_generation(case: Case) -> dict[str, Tensor]:
    """The loss, input and output of the generation block, all gradients; the logit loss where the case has logits."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    options = {"ratio": case.options["mask_ratio"], "unit": case.options["mask_unit"]}
    criterion = StoredMask([spec(student)], [spec(teacher)], **options)
    block = criterion.to(student.dtype).blocks[0]
    criterion.mask = case.arrays["in.mask"]
    parameters = filled(case, block)
    batch_info = BatchInfo([(1, 1)] * len(teacher), (1, 1))
    feature = case.options["alpha"] * criterion([student], [teacher], batch_info)
    generated = block(block.align(student), criterion.mask)
    found = {
        "out.masked_student": block.align(student) * criterion.mask,
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
    loss = case.options["logit_weight"] * channel_divergence(student, teacher, case.options["logit_temperature"])
    return {"out.loss_logits": loss, "grad.student_logits": torch.autograd.grad(loss, student, retain_graph=True)[0]}


CASES = {"mgd": masked_generation}
