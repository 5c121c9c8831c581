"""One cell of the table family x loss: two iterations of a tiny pair and an evaluation, or the reason for none."""

import contextlib
import io
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import inference_on_dataset
from detectron2.evaluation.testing import flatten_results_dict

from kd2 import engine
from kd2.distill import ConfigError, Distiller, loss_names
from kd2.engine.detectron2.data import eval_loader
from kd2.engine.detectron2.evaluators import build_evaluator
from kd2.losses import loss_types
from kd2.losses.registry import LOSSES

from .d2_families import FAMILIES, family_config, tap_of
from .d2_tiny import load_config

# Those of the package; tests of one process may have registered more.
LOSSES = [name for name in loss_types() if LOSSES.get(name).loss.__module__.startswith("kd2.")]


def cell(folder: Path, data: Path, family: str, loss: str, teacher: str = "") -> str:
    """What the table says of a loss on a family: the alias of its tap, or why it is refused before training.

    Fails where a loss is not finite, sends nothing into a tapped map of the student, or reaches the teacher.
    """
    config = family_config(folder, data, family, loss, teacher=teacher)
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(engine.dry_run(config, [], allow_code=True))
        except ConfigError as error:
            start = f"KD.LOSSES.{loss}"
            assert str(error).startswith(start), f"a refusal names the loss: {error}"
            return str(error).removeprefix(start).strip(": ")
        two_iterations(found.distiller, found.arrive, loss)
        scores = evaluated(config, FAMILIES[family].test or FAMILIES[family].data, found.distiller.student, folder)
    assert scores and not any(map(math.isinf, scores.values()))
    return tap_of(loss, FAMILIES[family])


def two_iterations(distiller: Distiller, arrive: Callable[[], Any], name: str) -> None:
    """Train two steps, and see that the loss and its gradients are there."""
    optimizer = torch.optim.SGD(distiller.parameters(), 1e-5)
    names = loss_names(name, distiller.losses[name])
    for _ in range(2):
        with distiller.student_taps.capture() as maps:
            losses = distiller(arrive())
        assert all(torch.isfinite(x) for x in losses.values()), losses
        sources = maps.sources[distiller.configs[name].tap]
        sent = torch.autograd.grad(sum(losses[x] for x in names), sources, retain_graph=True, allow_unused=True)
        # A softmax over the cells of a map is constant where there is one cell.
        sizes = [x.shape[2:].numel() > 1 or name != "channel_kd" for x in sources]
        silent = [i for i, (x, told) in enumerate(zip(sent, sizes)) if told and (x is None or not x.any())]
        assert not silent, f"{name} sends nothing into the maps {silent} of {len(sent)}"
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert all(p.grad is None and not p.requires_grad for p in distiller.teacher.model.parameters())


def evaluated(config: str, name: str, student: torch.nn.Module, folder: Path) -> dict[str, float]:
    """The scores of a student on data set ``name``, by the evaluator of a run."""
    cfg = load_config(config)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = build_evaluator(cfg, name, str(folder / "scores"))
        return flatten_results_dict(inference_on_dataset(student.eval(), eval_loader(cfg, name), evaluator))


def row(family: str, cells: Mapping[str, str]) -> str:
    """A line of the table in docs/detectors.md; a refusal is ``no`` there, its text stands below."""
    words = [cells[loss] if " " not in cells[loss] else "no" for loss in LOSSES]
    return f"| {family} | {' | '.join(words)} |"


def refusals(cells: Mapping[str, str]) -> list[str]:
    """The lines below the table, with numbers as letters: a loss, and why a family refuses it."""
    found = {loss: text for loss, text in cells.items() if " " in text}
    return [f"- `{loss}`: {re.sub('[0-9]+', 'n', text)}" for loss, text in found.items()]


def header() -> str:
    """The first two lines of that table: every loss of the package, in order."""
    return f"| family | {' | '.join(f'`{loss}`' for loss in LOSSES)} |\n|{'---|' * (len(LOSSES) + 1)}"
