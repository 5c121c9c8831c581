"""What a distilled training step costs beyond its parts."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kd2.engine.dry_run import Trial
from kd2.distill import Distiller, Maps, BatchInfo


def step_times(trial: Trial, rounds: int = 10) -> dict[str, float]:
    """Median milliseconds of the parts of one step and of the whole, measured in turn in every round.

    Returns:
        ``teacher``: forward to the last tap; ``student``: its losses, forward and backward; ``adapters``: the losses on
        ready maps, forward and backward; ``whole``: the distilled step from the loader's batch on, mixing, forward and
        backward; ``overhead``: the median over rounds of whole / (teacher + student + adapters).
    """
    distiller, batch = trial.distiller, trial.batch
    ready = _ready(distiller, batch)
    parts = {
        "teacher": lambda: distiller.teacher_features(batch),
        "student": lambda: sum(distiller.student_losses(batch).values()).backward(),
        "adapters": lambda: _losses(distiller, *ready).backward(),
        "whole": lambda: sum(distiller(trial.arrive()).values()).backward(),
    }
    seen: dict[str, list[float]] = {name: [] for name in parts}
    for round_number in range(rounds + 1):
        for name, work in parts.items():
            elapsed = _milliseconds(work)
            distiller.zero_grad()
            if round_number:  # the first one warms up
                seen[name].append(elapsed)
    overheads = [w / (t + s + a) for t, s, a, w in zip(*seen.values())]
    return {name: statistics.median(times) for name, times in seen.items()} | {"overhead": statistics.median(overheads)}


def _ready(distiller: Distiller, batch: Any) -> tuple[Maps, Maps, BatchInfo]:
    """Maps of both models, the student's as leaves that take a gradient, and the batch_info."""
    teacher = distiller.teacher_features(batch)
    with torch.no_grad(), distiller.student_taps.capture() as student:
        distiller.student_losses(batch)
    leaves = {alias: [x.detach().requires_grad_() for x in maps] for alias, maps in student.items()}
    return leaves, dict(teacher), distiller.placed_batch_info(batch)


def _losses(distiller: Distiller, student: Maps, teacher: Maps, batch_info: BatchInfo) -> Tensor:
    values = []
    for name, criterion in distiller.losses.items():
        tap = distiller.uses[name].tap
        parts = criterion(student[tap], teacher[tap], batch_info)
        values += parts.values() if isinstance(parts, dict) else [parts]
    return sum(values)


def _milliseconds(work: Callable[[], Any]) -> float:
    synchronize = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronize()
    start = time.perf_counter()
    work()
    synchronize()
    return 1000 * (time.perf_counter() - start)
