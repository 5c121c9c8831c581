"""Golden cases of R-CNN heads: classes, boxes and masks of sampled proposals."""

import torch
from torch import Tensor

from kd2.losses.dkd import decoupled
from kd2.losses.roi_kd import bounded_boxes, mask_divergence, own_class, smooth_boxes, weighted_divergence
from tests.golden.runners._case import Case
from tests.golden.runners._module import slope


def heads(case: Case) -> dict[str, Tensor]:
    """The component of the case."""
    return {"classification": classes, "boxes": boxes, "masks": masks}[case.meta["component"]](case)


def classes(case: Case) -> dict[str, Tensor]:
    """DKD with its two parts, or the divergence with the classes' weights; the gradient."""
    student, teacher, options = case.leaf("in.student"), case.arrays["in.teacher"], case.options
    if case.meta["variant"] == "dkd":
        target, others = decoupled(student, teacher, case.arrays["in.labels"], options["temperature"])
        loss = options["alpha"] * target + options["beta"] * others
        return {"out.loss": loss, "out.tckd": target, "out.nckd": others, "grad.student": slope(loss, student)}
    weights = torch.tensor(options["class_weights"] or [1.0] * student.shape[1], dtype=student.dtype)
    labels = torch.zeros(len(student), dtype=torch.int64)
    loss = weighted_divergence(student, teacher, labels, weights, options["temperature"])
    return {"out.loss": loss, "grad.student": slope(loss, student)}


def boxes(case: Case) -> dict[str, Tensor]:
    """The loss of the numbers of the proposals' own classes, and its gradient."""
    student, labels = case.leaf("in.student_deltas"), case.arrays["in.labels"]
    s, t = (own_class(x, labels, numbers=4) for x in (student, case.arrays["in.teacher_deltas"]))
    foreground = labels != (0 if case.options["background"] == "first" else case.options["classes"])
    if case.meta["variant"] == "bounded":
        loss = bounded_boxes(s, t, case.arrays["in.target_deltas"], foreground, case.options["margin"])
    else:
        loss = smooth_boxes(s, t, foreground, case.options["beta"])
    return {"out.loss": loss, "grad.student_deltas": slope(loss, student)}


def masks(case: Case) -> dict[str, Tensor]:
    """The masks' loss and its gradient."""
    student = case.leaf("in.student_masks")
    loss = mask_divergence(student, case.arrays["in.teacher_masks"], case.arrays["in.labels"])
    return {"out.loss": loss, "grad.student_masks": slope(loss, student)}


CASES = {"roi_kd": heads}
