"""Checks of a configured pair of models before training: what would be distilled, and whether it would do anything."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kd2.distill import Distiller, FeatureSpec, loss_names, override_groups

if TYPE_CHECKING:
    from kd2.engine.experiment import DryRun

logger = logging.getLogger(__name__)

Rows = list[list[Any]]
_MOST_BATCHES = 100  # among which one with an object is looked for


def tap_rows(distiller: Distiller) -> Rows:
    """A row a tap: alias, then for student and teacher the number of maps, channels and strides."""
    rows = []
    for alias in distiller.student_taps.specs:
        sides = [taps.specs.get(alias, []) for taps in (distiller.student_taps, distiller.teacher.taps)]
        rows.append(
            [alias, *[text for specs in sides for text in (len(specs), _each(specs, "channels"), _strides(specs))]]
        )
    return rows


def start_up(distiller: Distiller) -> list[str]:
    """The cheap part, from the probes alone: a line a tap and a line a loss, for the log of a training run."""
    if distiller.teacher is None:
        return ["no loss counts: plain training of the student"]
    lines = [
        f"tap {alias}: {maps} maps, channels {c} / {teacher_c}, strides {s} / {teacher_s} (student / teacher)"
        for alias, maps, c, s, _, teacher_c, teacher_s in tap_rows(distiller)
    ]
    for name, config in distiller.configs.items():
        parameters = sum(p.numel() for p in distiller.losses[name].parameters())
        strength = f"{'share' if config.calibrate else 'weight'} {config.schedule.weight:g}"
        lines.append(f"loss {name} on tap {config.tap}: {strength}, {parameters} parameters of adapters")
    return lines


TAP_HEADER = ["tap", "student maps", "channels", "strides", "teacher maps", "channels", "strides"]
LOSS_HEADER = ["loss", "of", "raw", "weight", "share", "its gradient norm in the student", "adapter parameters"]
SHARE_HEADER = ["loss", "map", "its gradient is multiplied by"]
OWN, DISTILLED = "own", "distillation"


def first_with_objects(distiller: Distiller, arrivals: Iterator[Callable[[], Any]]) -> Callable[[], Any]:
    """The first of ``arrivals`` whose batch has a box or a labeled pixel; without one among many, the first of all."""
    first = next(arrivals)
    for arrive in itertools.chain([first], itertools.islice(arrivals, _MOST_BATCHES - 1)):
        info = distiller.batch_info(arrive())
        labels = info.labels
        if not info.boxes and labels is None:
            return first  # the task knows of no objects
        if any(map(len, info.boxes)) or labels is not None and bool((labels != info.ignore_label).any()):
            return arrive
    logger.warning("none of the first %d batches has an object", _MOST_BATCHES)
    return first


def loss_rows(dry_run: "DryRun") -> Rows:
    """A row a loss: name, whose it is, raw value, full weight or share, norm of its gradient in the student with that,
    parameters of its adapters. Shares are measured on this batch alone.

    No norm (None) for a loss that trains a part of its own with another solver, and not the student.
    """
    distiller = dry_run.distiller
    with dry_run.precision():
        own, raw = distiller.evaluate(dry_run.batch, dict.fromkeys(distiller.losses, 1.0))
    weights = [p for p in distiller.student.parameters() if p.requires_grad]
    rows = [[key, OWN, x.item(), 1.0, "", _norm(_gradient(x, weights)), 0] for key, x in own.items()]
    for name, config in distiller.configs.items():
        loss, weight = distiller.losses[name], config.schedule.weight
        parameters = sum(p.numel() for p in loss.parameters())
        for key in loss_names(name, loss):
            gradient, value = _gradient(raw[key], weights), raw[key].item()
            elsewhere = raw[key].requires_grad and not gradient and override_groups(loss)
            norm = None if elsewhere else weight * _norm(gradient)
            strength = ["", weight] if config.calibrate else [weight, ""]
            rows.append([key, DISTILLED, value, *strength, norm, parameters])
    return rows


def share_rows(dry_run: "DryRun") -> Rows:
    """Behind ``loss_rows``, a row a map of every loss with a share: loss, map, factor of the loss's gradient there."""
    distiller = dry_run.distiller
    found = ((name.split("/"), x.item()) for name, x in distiller.stats.items() if name.startswith("share/"))
    return [[loss, level, distiller.configs[loss].schedule.weight * x] for (_, loss, level), x in found]


def _gradient(value: Tensor, weights: list[nn.Parameter]) -> list[Tensor]:
    """The gradients of ``value`` in the weights that it reaches."""
    found = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True) if value.requires_grad else []
    return [x for x in found if x is not None]


def _norm(gradient: list[Tensor]) -> float:
    return math.sqrt(sum(float(x.double().square().sum()) for x in gradient))


def problems(rows: Rows) -> list[str]:
    """Why training would not distill, from ``loss_rows``: a loss is not finite, or one of distillation does nothing."""
    found = []
    for name, whose, raw, _, _, norm, _ in rows:
        if not math.isfinite(raw) or not math.isfinite(norm or 0):
            found.append(f"{name} is not finite (value {raw}, gradient norm {norm})")
        elif whose == DISTILLED and norm == 0:
            found.append(f"{name} is 0" if raw == 0 else f"{name} has no gradient into the student")
    return found


def teacher_share(dry_run: "DryRun") -> float:
    """The teacher's part of the time of one training step (forward and backward), 0 to 1; one warm measurement."""
    distiller = dry_run.distiller

    def step() -> None:
        with dry_run.precision():
            losses = distiller(dry_run.batch)
        sum(losses.values()).backward()
        distiller.zero_grad()

    def teacher() -> None:
        with dry_run.precision():
            distiller.teacher_features(dry_run.batch)

    step()
    return _seconds(teacher) / _seconds(step)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _each(specs: list[FeatureSpec], field: str) -> str:
    values = [getattr(spec, field) for spec in specs]
    return str(values[0]) if len(set(values)) == 1 else " ".join(map(str, values))


def _strides(specs: list[FeatureSpec]) -> str:
    return " ".join(f"{y:g}" if y == x else f"{y:g}x{x:g}" for y, x in (spec.stride for spec in specs))
