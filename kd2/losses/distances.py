"""How far a student is from its teacher, example by example: for evaluation, beside accuracy.

``agree_1`` and ``kl`` are the two to report.
Source: Beyer et al., "Knowledge distillation: A good teacher is patient and consistent", CVPR 2022 (arXiv 2106.05237),
whose code offers these distances. Letters: N images, K classes.
"""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kd2.losses.kl import divergences


def agreement(student: Tensor, teacher: Tensor, k: int = 1) -> Tensor:
    """Whether the teacher's class is among the student's first ``k``: (N,) bool of logits (N, K)."""
    return (student.topk(k, 1).indices == teacher.argmax(1, keepdim=True)).any(1)


def hard_divergence(student: Tensor, teacher: Tensor, smoothing: float = 0.0) -> Tensor:
    """KL divergence (N,) of the student from the teacher's class, of which ``smoothing`` is spread over the others."""
    classes = student.shape[1]
    label = F.one_hot(teacher.argmax(1), classes).to(student.dtype)
    target = label * (1 - smoothing) + (1 - label) * (smoothing / max(classes - 1, 1))
    return F.kl_div(student.log_softmax(1), target, reduction="none").sum(1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": divergences,
    "agree_1": agreement,
    "agree_5": lambda s, t: agreement(s, t, min(5, s.shape[1])),
    "hard": hard_divergence,
    "hard_ls01": lambda s, t: hard_divergence(s, t, 0.1),
    "euclidean": lambda s, t: (s - t).norm(dim=1),
    "l2": lambda s, t: (s - t).square().sum(1),
    "logsoftmax_euclidean": lambda s, t: (s.log_softmax(1) - t.log_softmax(1)).norm(dim=1),
}
