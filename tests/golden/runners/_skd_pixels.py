"""Golden cases of structured distillation without a critic: pixel-wise, pair-wise, and the task loss."""

import torch
from torch import Tensor

from kd2.distill import BatchInfo
from kd2.losses.kl import KLDivergence
from kd2.losses.pairwise import Pairwise
from kd2.networks.losses import task_loss
from tests.golden.runners._case import Case
from tests.golden.runners._module import spec


def pixelwise(case: Case) -> dict[str, Tensor]:
    """The released code: cross-entropy, not divided by N, with classes first in the memory or (historic) last."""
    rows = "rows of C consecutive values" in case.options["softmax_axis"]
    return _run(
        case,
        KLDivergence,
        "logits",
        divergence="cross_entropy",
        reduction="map_mean",
        softmax="memory_runs" if rows else "classes",
    )[1]


def conference_pixelwise(case: Case) -> dict[str, Tensor]:
    """True KL of enlarged maps, the mean over all elements."""
    return _run(case, KLDivergence, "logits", reduction="mean", enlarge=case.options["upsample"])[1]


def pairwise(case: Case) -> dict[str, Tensor]:
    """Loss, gradient, and both graphs where the case stores them."""
    nodes = {"patch": (1, 1)} if case.options["pooling"] == "none" else {"scale": case.options["pool_scale"]}
    normalize = "cosine" if case.options["norm_in_gradient"] else "detached"
    loss_module, found = _run(case, Pairwise, "feature", normalize=normalize, **nodes)
    for side in ("student", "teacher"):
        graph = loss_module.graph_nodes(case.arrays[f"in.{side}_feature"].double()).flatten(2)
        found[f"out.{side}_affinity"] = graph.mT @ graph
    return found


def task(case: Case) -> dict[str, Tensor]:
    """The cross-entropy of a segmentation network with an auxiliary head."""
    main, auxiliary = (case.arrays[f"in.student_{name}"].double().requires_grad_() for name in ("logits", "aux_logits"))
    loss = sum(task_loss(main, auxiliary, case.arrays["in.label"].long(), case.options["aux_weight"]).values())
    slopes = torch.autograd.grad(loss, [main, auxiliary])
    return {"out.loss": loss, "grad.student_logits": slopes[0], "grad.student_aux_logits": slopes[1]}


def _run(case: Case, kind: type, name: str, **options) -> tuple:
    """The loss, and its loss and student gradient in float64."""
    student, teacher = (case.arrays[f"in.{side}_{name}"].double() for side in ("student", "teacher"))
    student.requires_grad_()
    loss_module = kind([spec(student)], [spec(teacher)], **options)
    loss = loss_module([student], [teacher], BatchInfo([], (0, 0)))
    return loss_module, {"out.loss": loss, f"grad.student_{name}": torch.autograd.grad(loss, student)[0]}


COMPONENTS = {
    "pixel-wise": pixelwise,
    "pixel-wise, conference branch": conference_pixelwise,
    "pair-wise": pairwise,
    "pair-wise, conference branch": pairwise,
    "task loss with deep supervision": task,
}
