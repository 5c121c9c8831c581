"""What a distilled training step costs beyond its parts."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kd2.bridges.trial import Trial
from kd2.core import Distiller, Maps, Scene


def step_times(trial: Trial, rounds: int = 10) -> dict[str, float]:
    """Median milliseconds of the parts of one step and of the whole, measured in turn in every round.

    Returns:
        ``teacher``: forward to the last tap; ``student``: its losses, forward and backward; ``adapters``: the terms on
        ready maps, forward and backward; ``whole``: the distilled step from the loader's batch on, mixing, forward and
        backward; ``overhead``: the median over rounds of whole / (teacher + student + adapters).
    """
    distiller, batch = trial.distiller, trial.batch
    ready = _ready(distiller, batch)
    parts = {
        "teacher": lambda: distiller.look(batch),
        "student": lambda: sum(distiller.student_losses(batch).values()).backward(),
        "adapters": lambda: _terms(distiller, *ready).backward(),
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


def _ready(distiller: Distiller, batch: Any) -> tuple[Maps, Maps, Scene]:
    """Maps of both models, the student's as leaves that take a gradient, and the scene."""
    teacher = distiller.look(batch)
    with torch.no_grad(), distiller.student_taps.listen() as student:
        distiller.student_losses(batch)
    leaves = {alias: [x.detach().requires_grad_() for x in maps] for alias, maps in student.items()}
    return leaves, dict(teacher), distiller.placed_scene(batch)


def _terms(distiller: Distiller, student: Maps, teacher: Maps, scene: Scene) -> Tensor:
    values = []
    for name, term in distiller.terms.items():
        tap = distiller.uses[name].tap
        parts = term(student[tap], teacher[tap], scene)
        values += parts.values() if isinstance(parts, dict) else [parts]
    return sum(values)


def _milliseconds(work: Callable[[], Any]) -> float:
    synchronise = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    synchronise()
    start = time.perf_counter()
    work()
    synchronise()
    return 1000 * (time.perf_counter() - start)
