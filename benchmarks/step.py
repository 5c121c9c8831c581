"""What a distilled training step costs beyond its parts."""

import functools
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch

from kd2.distill import BatchInfo, Distiller, Maps


class Step(Protocol):
    """What is measured: a distiller in train mode, a batch as it takes it, and how one comes from the loader."""

    distiller: Distiller
    batch: Any

    def arrive(self) -> Any:
        """A batch as the loader hands it over, moved to the device and mixed."""

    def precision(self) -> AbstractContextManager[Any]:
        """What a forward pass runs in."""


def step_times(step: Step, rounds: int = 10) -> dict[str, float]:
    """Median milliseconds of the parts of one step and of the whole, measured in turn in every round.

    Returns:
        ``teacher``: forward to the last tap; ``student``: its losses, forward and backward; ``losses``: those of
        distillation on ready maps, forward and backward; ``whole``: the distilled step from the loader's batch on,
        forward and backward; ``overhead``: the median over rounds of whole / (teacher + student + losses); ``ratio``:
        that of whole / student.
    """
    distiller, batch = step.distiller, step.batch
    resting = _rest_of_shares(step)
    factors = {name: config.schedule.weight for name, config in distiller.configs.items()}
    with step.precision():
        student, teacher, info = _ready(distiller, batch)
    parts: dict[str, Callable[[], Any]] = {
        "teacher": lambda: distiller.teacher_features(batch),
        "student": lambda: distiller.run_student(distiller.student, batch),
        "losses": lambda: distiller.distillation_losses({}, student, teacher, info, factors),
        "whole": lambda: distiller(step.arrive()),
    }
    seen: dict[str, list[float]] = {name: [] for name in parts}
    for round_number in range(rounds + 1):
        for name, work in parts.items():
            distiller.iteration = resting
            elapsed = _milliseconds(functools.partial(_pass, step, work, backward=name != "teacher"))
            distiller.zero_grad()
            if round_number:  # the first one warms up
                seen[name].append(elapsed)
    overheads = [whole / sum(others) for *others, whole in zip(*seen.values(), strict=True)]
    ratios = [whole / student for whole, student in zip(seen["whole"], seen["student"], strict=True)]
    medians = {name: statistics.median(times) for name, times in seen.items()}
    return medians | {"overhead": statistics.median(overheads), "ratio": statistics.median(ratios)}


def _rest_of_shares(step: Step) -> int:
    """An iteration between two measurements of the shares, as most of a run are, when each was measured."""
    for share in step.distiller.shares.values():
        share.iterations = 1
    while any(share.measures(step.distiller.iteration) for share in step.distiller.shares.values()):
        with step.precision():
            step.distiller(step.arrive())
    return step.distiller.iteration


def _ready(distiller: Distiller, batch: Any) -> tuple[Maps, Maps, BatchInfo]:
    """Maps of student and teacher, the student's as leaves that take a gradient, and the batch info."""
    with torch.no_grad():
        _, student = distiller.student_features(batch)
    teacher = distiller.teacher_features(batch)  # behind the student, whose proposals it may look at
    leaves = {alias: [x.detach().requires_grad_() for x in maps] for alias, maps in student.items()}
    return leaves, dict(teacher), distiller.placed_batch_info(batch)


def _pass(step: Step, work: Callable[[], Any], backward: bool) -> None:
    with step.precision():
        made = work()
    if backward:
        torch.stack(list(made.values())).sum().backward()


def _milliseconds(work: Callable[[], Any]) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return 1000 * (time.perf_counter() - start)
