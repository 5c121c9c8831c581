"""Golden cases of dense detection heads: scores and boxes. A level's arrays carry its name behind theirs.

The stored weights and positives are those of an assignment, which the loss itself does not know: its parts are checked.
"""

import torch
from torch import Tensor

from kd2.distill import BoxCoder, BoxCoding
from kd2.losses.dense_kd import box_divergences, score_divergences, teacher_normalizer
from kd2.ops.scaled_entropy import scaled_entropy
from tests.golden.runners._case import Case
from tests.golden.runners._module import slope


def dense(case: Case) -> dict[str, Tensor]:
    """The component of the case."""
    return scores(case) if case.meta["component"] == "classification" else boxes(case)


def scores(case: Case) -> dict[str, Tensor]:
    """Loss, normalizer, the part of each level and the students' gradients; the formula and its fast form agree."""
    levels, anchors, beta = _levels(case), case.options["anchors"], case.options["beta"]
    student = [case.leaf(f"in.student.{level}") for level in levels]
    teacher = [case.arrays[f"in.teacher.{level}"] for level in levels]
    weights = [case.arrays[f"in.weight.{level}"].movedim(3, 1).flatten(2) for level in levels]
    best = [t.unflatten(1, (anchors, -1)).amax(2).flatten(2).sigmoid() for t in teacher]
    norm = teacher_normalizer(best, weights) if case.options["normalizer"] == "teacher" else _positives(case)
    kept = [_kept(case, level, b) for level, b in zip(levels, best)]
    parts = [
        scaled_entropy(s.flatten(2), t.flatten(2), w * k, beta, anchors)[0] / norm
        for s, t, w, k in zip(student, teacher, weights, kept)
    ]
    for part, s, t, w, k in zip(parts, student, teacher, weights, kept):
        plain = score_divergences(s, t, beta).flatten(2).unflatten(1, (anchors, -1)) * (w * k)[:, :, None]
        torch.testing.assert_close(part, plain.sum() / norm)
    loss = case.options["loss_weight"] * sum(parts)
    found = {"out.loss": loss, "out.normalizer": norm}
    # The parts of the levels are stored with the weight.
    found |= {f"out.loss.{level}": case.options["loss_weight"] * part for level, part in zip(levels, parts)}
    return found | {f"grad.student.{level}": slope(loss, s) for level, s in zip(levels, student)}


def boxes(case: Case) -> dict[str, Tensor]:
    """The boxes' part and its gradients."""
    levels, anchors = _levels(case), case.options["anchors"]
    coder = BoxCoder("distances" if case.meta["variant"] == "distances" else "deltas")
    coding = BoxCoding(lambda sizes: [], coder, coder, classes=1)
    student = [case.leaf(f"in.student_deltas.{level}") for level in levels]
    total = torch.zeros((), dtype=torch.float64)
    for level, s in zip(levels, student):
        apart = (case.arrays[f"in.student.{level}"].sigmoid() - case.arrays[f"in.teacher.{level}"].sigmoid()).abs()
        weight = apart.unflatten(1, (anchors, -1)).amax(2) * case.arrays[f"in.weight.{level}"].movedim(3, 1)
        teacher, places = case.arrays[f"in.teacher_deltas.{level}"], case.arrays[f"in.anchors.{level}"]
        total = total + (box_divergences(s, teacher, coding, places) * weight).sum()
    loss = case.options["loss_weight"] * total / _positives(case)
    return {"out.loss": loss} | {f"grad.student_deltas.{x}": slope(loss, s) for x, s in zip(levels, student)}


def _levels(case: Case) -> list[str]:
    return [name.rpartition(".")[2] for name in case.arrays if name.startswith("in.student.")]


def _positives(case: Case) -> Tensor:
    return case.arrays["in.num_positives"].clamp(min=1)


def _kept(case: Case, level: str, best: Tensor) -> Tensor:
    if case.options["positions"] == "mask":
        return case.arrays[f"in.mask.{level}"].flatten(1)[:, None]
    return best > case.options["threshold"] if case.options["positions"] == "teacher" else torch.ones_like(best)


CASES = {"dense_kd": dense}
