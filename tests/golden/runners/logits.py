"""Golden cases of the losses over logits: plain, beside cross-entropy, by pixel, and decoupled."""

import torch.nn.functional as F
from torch import Tensor

from kd2.distill import BatchInfo, FeatureSpec, Schedule
from kd2.losses.dkd import Dkd, decoupled
from kd2.losses.kl import KLDivergence, divergences
from tests.golden.runners._case import Case
from tests.golden.runners._module import slope


def divergence(case: Case) -> dict[str, Tensor]:
    """The loss on a classifier's logits, the divergence of each sample, the student's gradient."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    loss = logit_loss(case, student, teacher)
    per_sample = divergences(student, teacher, case.options["temperature"])
    return {"out.loss": loss, "out.per_sample": per_sample, "grad.student": slope(loss, student)}


def logit_loss(case: Case, student: Tensor, teacher: Tensor) -> Tensor:
    """The loss of logits (N, K) at the temperature of the case."""
    return _loss(KLDivergence, case.options["temperature"], student, teacher)


def with_labels(case: Case) -> dict[str, Tensor]:
    """The loss beside cross-entropy, both weighted."""
    student = case.leaf("in.student")
    task = case.options["ce_weight"] * F.cross_entropy(student, case.arrays["in.target"])
    soft = case.options["kd_weight"] * logit_loss(case, student, case.arrays["in.teacher"])
    loss = task + soft
    return {"out.loss_ce": task, "out.loss_kd": soft, "out.loss": loss, "grad.student": slope(loss, student)}


def pixels(case: Case) -> dict[str, Tensor]:
    """The loss on maps, its gradient, and the sum over pixels that other codes take instead of the mean."""
    student, teacher = case.leaf("in.student"), case.arrays["in.teacher"]
    size = (student.shape[2], student.shape[3])
    specs = [FeatureSpec(student.shape[1], size, (1.0, 1.0))]
    loss_module = KLDivergence(specs, specs, temperature=case.options["temperature"])
    loss = loss_module([student], [teacher], BatchInfo([size] * len(student), size))
    summed = divergences(student, teacher, case.options["temperature"]).sum() / len(student)
    return {"out.loss": loss, "out.loss_sum_over_pixels": summed, "grad.student": slope(loss, student)}


def dkd(case: Case) -> dict[str, Tensor]:
    """DKD, its two unweighted parts, the student's gradient."""
    student, teacher, labels = case.leaf("in.student"), case.arrays["in.teacher"], case.arrays["in.target"]
    loss = _dkd_loss(case, student)
    target, others = decoupled(student, teacher, labels, case.options["temperature"])
    return {"out.loss": loss, "out.tckd": target, "out.nckd": others, "grad.student": slope(loss, student)}


def dkd_with_warmup(case: Case) -> dict[str, Tensor]:
    """DKD beside cross-entropy under the loss's ramp, at one iteration an epoch."""
    student = case.leaf("in.student")
    ramp = Schedule(1.0, ramp=case.options["warmup_epochs"] - 1)
    task = case.options["ce_weight"] * F.cross_entropy(student, case.arrays["in.target"])
    soft = ramp.at(case.options["epoch"] - 1) * _dkd_loss(case, student)
    loss = task + soft
    return {"out.loss_ce": task, "out.loss_kd": soft, "out.loss": loss, "grad.student": slope(loss, student)}


def _dkd_loss(case: Case, student: Tensor) -> Tensor:
    options = {name: case.options[name] for name in ("alpha", "beta")}
    labels = case.arrays["in.target"]
    return sum(_loss(Dkd, case.options["temperature"], student, case.arrays["in.teacher"], labels, **options).values())


def _loss(kind: type, temperature: float, student: Tensor, teacher: Tensor, labels: Tensor | None = None, **options):
    specs = [FeatureSpec(student.shape[1], (1, 1), (1.0, 1.0))]
    loss_module = kind(specs, specs, temperature=temperature, **options)
    batch_info = BatchInfo([(1, 1)] * len(student), (1, 1), labels=labels)
    return loss_module([student[:, :, None, None]], [teacher[:, :, None, None]], batch_info)


CASES = {
    "logit_kl": divergence,
    "logit_kl_plus_cross_entropy": with_labels,
    "pixel_logit_kl": pixels,
    "dkd": dkd,
    "dkd_with_warmup": dkd_with_warmup,
}
