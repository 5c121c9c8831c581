"""The distiller: a student in training beside its frozen teacher.

How a batch flows: teacher (no grad, stopped behind its last tap) -> student -> scene -> terms -> one dict of losses.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Mapping

import torch
from torch import Tensor, distributed, nn

from kd2.core.errors import ConfigError
from kd2.core.finite import check_maps
from kd2.core.scene import Scene
from kd2.core.schedule import Schedule
from kd2.core.tap import Tap
from kd2.core.taps import Maps, Taps
from kd2.core.teacher import Teacher


@dataclass(frozen=True)
class Use:
    """How the distiller uses one term: the tap it reads on both sides, and its weight over time."""

    tap: str
    schedule: Schedule


@contextlib.contextmanager
def resting(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module's mode and the random state are as before."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            yield model.eval()
    finally:
        for module, mode in modes.items():
            module.training = mode


def rehearsed(
    model: nn.Module, taps: list[str], run: Callable[[], Any], image_size: tuple[int, int], key: str
) -> Taps:
    """Taps of ``model`` after one full forward pass ``run`` on a blank batch of ``image_size`` (H, W).

    Raises:
        TapError: see ``Taps``; ``key`` is the config key that its text names.
    """
    listening = Taps(model, [Tap.parse(text) for text in taps], key)
    with resting(model):
        listening.rehearse(run, image_size)
    return listening


class Distiller(nn.Module):
    """Wraps a student; in training it returns the student's own losses and those of the terms.

    A bridge subclasses it with ``student_losses``, ``teacher_forward`` and ``scene``. Without terms it is the student:
    no teacher is needed and every weight after training equals plain training bit for bit. In eval mode
    ``Distiller(batch)`` is ``student(batch)``.

    Args:
        student: the model to train; the only part that is exported.
        teacher: frozen here; never part of the state dict.
        student_taps, teacher_taps: rehearsed taps with equal aliases.
        terms: name -> module called as ``term(student_maps, teacher_maps, scene)``. It returns an unweighted float32
            scalar, or a dict of named parts; every value has a gradient or is an exact zero that keeps the graph. More
            numbers for the log it leaves in its attribute ``stats``: detached scalars by name.
        uses: name -> tap and schedule of that term.
        seed: the run's seed, handed to the terms through the scene.
        batch_statistics: of the teacher, see ``Teacher``.

    Attributes:
        iteration: optimiser steps done so far; the bridge sets it before every step.
        facts: name -> (student's, teacher's), what a bridge found out about both: classes, colour order, ...
        stats: ``term/name`` -> detached scalar of the last batch, for the log; a resting term has none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None = None,
        student_taps: Taps | None = None,
        teacher_taps: Taps | None = None,
        terms: Mapping[str, nn.Module] | None = None,
        uses: Mapping[str, Use] | None = None,
        seed: int = 0,
        batch_statistics: bool = False,
    ):
        super().__init__()
        self.student = student
        self.terms = nn.ModuleDict(terms or {})
        self.uses = dict(uses or {})
        self.student_taps = student_taps
        self.teacher = Teacher(teacher, teacher_taps, batch_statistics) if teacher is not None else None
        self.seed = seed
        self.iteration = 0
        self.facts: dict[str, tuple[Any, Any]] = {}
        self.stats: dict[str, Tensor] = {}
        self._looked = False

    # What a bridge fills in.

    def student_losses(self, batch: Any) -> dict[str, Tensor]:
        """Run the student in train mode and return its own losses."""
        return self.student(batch)

    def teacher_forward(self, batch: Any) -> None:
        """Run ``self.teacher.model`` on the batch, converted to its normalisation and colour order."""
        raise NotImplementedError(f"{type(self).__name__} has terms but no teacher_forward")

    def scene(self, batch: Any) -> Scene:
        """Boxes, sizes and anchors of the batch."""
        raise NotImplementedError(f"{type(self).__name__} has terms but no scene")

    # What it does with them.

    def forward(self, batch: Any) -> Any:
        """Losses in training: ``{name: float32 scalar}``, ready to be summed. The student's output in eval mode."""
        if not self.training:
            return self.student(batch)
        self.stats = {}
        factors = {name: use.schedule.at(self.iteration) for name, use in self.uses.items()}
        if not any(factors.values()):
            self._release_teacher()
            losses = dict(self.student_losses(batch))
            return losses | {f"loss_{name}": _zero(self.terms[name], losses) for name in factors}
        teacher_maps = self.look(batch)
        with self.student_taps.listen() as student_maps:
            losses = dict(self.student_losses(batch))
        scene = self.placed_scene(batch)
        for name, factor in factors.items():
            parts = self._evaluate(name, student_maps, teacher_maps, scene) if factor else _zero(self.terms[name], losses)
            losses |= _weighted(name, factor, parts)
        return losses

    def placed_scene(self, batch: Any) -> Scene:
        """The scene of a batch with what the run knows: iteration, seed, and which of its processes this is."""
        scene = self.scene(batch)
        scene.iteration, scene.seed = self.iteration, self.seed
        if distributed.is_available() and distributed.is_initialized():
            scene.rank, scene.ranks = distributed.get_rank(), distributed.get_world_size()
        return scene

    def look(self, batch: Any) -> Maps:
        """The teacher's maps of a batch. Its forward pass ends behind the last tapped module.

        Raises:
            ConfigError: NaN or infinity in the first maps ever; later ones are not looked at, that would wait for the
                device.
        """
        self.teacher.watch()
        with torch.no_grad(), self.teacher.taps.listen(stop=True) as maps:
            self.teacher_forward(batch)
        if not self._looked:
            check_maps(maps)
            self._looked = True
        return maps

    def raw_terms(self, batch: Any) -> dict[str, Tensor]:
        """Every term of a batch without its weight and schedule, by loss name (for a check before training)."""
        teacher_maps = self.look(batch)
        with self.student_taps.listen() as student_maps:
            self.student_losses(batch)
        scene = self.placed_scene(batch)
        raw = {}
        for name in self.terms:
            raw |= _weighted(name, 1.0, self._evaluate(name, student_maps, teacher_maps, scene))
        return raw

    def _evaluate(self, name: str, student: Maps, teacher: Maps, scene: Scene) -> Tensor | dict[str, Tensor]:
        tap = self.uses[name].tap
        scene.term = name
        try:
            parts = self.terms[name](student[tap], teacher[tap], scene)
        except ConfigError as error:
            raise ConfigError(f"KD.TERMS.{name}: {error}") from None
        self.stats |= {f"{name}/{stat}": value for stat, value in getattr(self.terms[name], "stats", {}).items()}
        return parts

    def _release_teacher(self) -> None:
        if self.teacher is not None and all(use.schedule.over(self.iteration) for use in self.uses.values()):
            self.teacher = None

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "Distiller":
        if self.teacher is not None:
            self.teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)


def _weighted(name: str, factor: float, parts: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    named = parts.items() if isinstance(parts, dict) else [("", parts)]
    return {f"loss_{name}_{part}" if part else f"loss_{name}": factor * value for part, value in named}


def _zero(term: nn.Module, losses: dict[str, Tensor]) -> Tensor:
    """An exact zero beside ``losses`` that touches all parameters of a resting term, as DistributedDataParallel asks."""
    zero = torch.zeros((), device=next(iter(losses.values())).device)
    return sum((p.flatten()[0] * 0.0 for p in term.parameters() if p.requires_grad), zero)
