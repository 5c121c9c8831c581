"""The distiller: a student in training beside its frozen teacher.

A batch flows: teacher (no gradients, stopped behind its last tap) -> student -> batch info -> losses -> one dict.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kd2.distill.batch_info import BatchInfo
from kd2.distill.errors import ConfigError, naming
from kd2.distill.finite import check_maps
from kd2.distill.loss_names import loss_names, refuse_shared
from kd2.distill.schedule import Schedule
from kd2.distill.taps import Captured, Maps, Taps
from kd2.distill.teacher import Teacher
from kd2.distill.weighting import GradientShare, gradients_at

Losses = dict[str, Tensor]
RunStudent = Callable[[nn.Module, Any], Losses]
RunTeacher = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class LossConfig:
    """How the distiller uses one loss.

    Attributes:
        tap: what it reads on both sides.
        schedule: its weight over time; with ``calibrate`` its share, see ``kd2.distill.weighting``.
        calibrate: iterations of every hundred in which gradients are measured for a share; 0: the schedule is that of
            a weight.
    """

    tap: str
    schedule: Schedule
    calibrate: int = 0


def call(model: nn.Module, batch: Any) -> Any:
    """``model(batch)``: how a student is run unless something else is said."""
    return model(batch)


def no_batch_info(batch: Any) -> BatchInfo:
    """Nothing is known of the batch; enough for losses that compare maps alone."""
    return BatchInfo([], (0, 0))


class Distiller(nn.Module):
    """Wraps a student; in training it returns the student's own losses and those of distillation.

    Without losses it is the student: no teacher is needed and every weight after training equals plain training bit
    for bit. In eval mode ``Distiller(batch)`` is ``student(batch)``.

    Args:
        student: the model to train; the only part that is exported.
        teacher: frozen, with its taps; never part of the state dict.
        student_taps: probed taps with the teacher's aliases.
        losses: name -> module called as ``loss(student_maps, teacher_maps, batch_info)``. It returns an unweighted
            float32 scalar, or a dict of the scalars that its attribute ``parts`` names; every value has a gradient or
            is an exact zero that keeps the graph. More numbers for the log it leaves in its attribute ``stats``:
            detached scalars by name.
        configs: name -> tap and schedule of that loss.
        run_student: (student, batch) to its own losses by name, in train mode.
        run_teacher: (teacher, batch): its forward pass, on the batch as the teacher wants it.
        batch_info: batch to what the losses may know of it.
        own_losses: names of the student's own losses, as far as they are known; none of distillation may be among them.
        seed: the run's seed, handed to the losses through the batch info.

    Raises:
        ConfigError: a name in the log that two losses would share.

    Attributes:
        iteration: optimizer steps done so far. Every forward pass in train mode adds one; a loop that counts otherwise
            (a resumed one, or one that accumulates gradients) sets it before each pass.
        stats: ``loss/name`` -> detached scalar of the last batch, for the log; an inactive loss has none.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher | None = None,
        student_taps: Taps | None = None,
        losses: Mapping[str, nn.Module] | None = None,
        configs: Mapping[str, LossConfig] | None = None,
        *,
        run_student: RunStudent = call,
        run_teacher: RunTeacher = call,
        batch_info: Callable[[Any], BatchInfo] = no_batch_info,
        own_losses: Collection[str] = (),
        seed: int = 0,
    ):
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(losses or {})
        self.configs = dict(configs or {})
        self.student_taps = student_taps
        self.teacher = teacher
        self.shares = nn.ModuleDict(
            {name: self._share(config) for name, config in self.configs.items() if config.calibrate}
        )
        self.run_student, self.run_teacher, self.batch_info = run_student, run_teacher, batch_info
        self.seed = seed
        self.iteration = 0
        self.stats: dict[str, Tensor] = {}
        self._teacher_checked = False
        names = [name for loss in self.losses for name in loss_names(loss, self.losses[loss])]
        refuse_shared(names, own_losses)

    @property
    def adapters(self) -> nn.ModuleDict:
        """What distillation trains beside the student, by the name of the loss; it never enters the student's file."""
        return self.losses

    def forward(self, batch: Any) -> Any:
        """Losses in training, ``{name: float32 scalar}``, weighted, ready to be summed; in eval mode the student's
        output.

        Raises:
            ConfigError: NaN or infinity in the teacher's first maps; a loss that does not suit the batch.
        """
        if not self.training:
            return self.student(batch)
        factors = {name: config.schedule.at(self.iteration) for name, config in self.configs.items()}
        self.stats = {}
        if any(factors.values()):
            own, distilled = self.evaluate(batch, factors)
        else:
            self._release_teacher()
            own = dict(self.run_student(self.student, batch))
            distilled = {}
        zero = _zero_of(own, distilled)
        for name in factors:
            if not factors[name]:
                distilled |= self._inactive(name, zero)
        refuse_shared([*distilled], own)
        self.iteration += 1
        return own | distilled

    def evaluate(self, batch: Any, factors: Mapping[str, float]) -> tuple[Losses, Losses]:
        """The student's own losses of a batch, and those of distillation times their factor, none for a factor of 0."""
        teacher = self.teacher_features(batch)
        # Inside a compiled region nothing depends on a map that it also gives out: a measurement runs uncompiled.
        eager = torch.compiler.set_stance("force_eager") if self._measured(factors) else contextlib.nullcontext()
        with eager:
            own, student = self.student_features(batch)
        return own, self.distillation_losses(own, student, teacher, self.placed_batch_info(batch), factors)

    def teacher_features(self, batch: Any) -> Maps:
        """The teacher's maps of a batch. Its forward pass ends behind the last tapped module.

        Raises:
            ConfigError: NaN or infinity in the first maps ever; later ones are not checked, that would wait for the
                device.
        """
        teacher = self.teacher
        assert teacher is not None and teacher.taps is not None, "without losses there is no teacher"
        teacher.enforce_mode()
        with torch.no_grad(), teacher.taps.capture(stop=True) as maps:
            self.run_teacher(teacher.model, batch)
        if not self._teacher_checked:
            check_maps(maps)
            self._teacher_checked = True
        return maps

    def student_features(self, batch: Any) -> tuple[Losses, Captured]:
        """The student's own losses of a batch, and its maps."""
        assert self.student_taps is not None, "without losses nothing is tapped"
        with self.student_taps.capture() as maps:
            own = dict(self.run_student(self.student, batch))
        return own, maps

    def placed_batch_info(self, batch: Any) -> BatchInfo:
        """The batch info with what the run knows: iteration, seed, and which of its processes this is."""
        info = self.batch_info(batch)
        info.iteration, info.seed = self.iteration, self.seed
        if distributed.is_available() and distributed.is_initialized():
            info.rank, info.ranks = distributed.get_rank(), distributed.get_world_size()
        return info

    def distillation_losses(
        self, own: Losses, student: Captured, teacher: Maps, info: BatchInfo, factors: Mapping[str, float]
    ) -> Losses:
        """Every loss with a factor other than 0 by its name in the log: times its weight, or with its share's gradient.

        Raises:
            ConfigError: a share of a student that sends no gradient of its own into the tap.
        """
        assert self.student_taps is not None, "a loss reads a tap"
        active = {name: factor for name, factor in factors.items() if factor}
        slopes = gradients_at(own, {tap: student.sources[tap] for tap in self._measured(factors)})
        found: Losses = {}
        for name, factor in active.items():
            tap, info.loss_name = self.configs[name].tap, name
            call_loss = functools.partial(self._values, name, teacher=teacher[tap], info=info)
            with naming(f"KD.LOSSES.{name}"):
                if name not in self.shares:
                    found |= {key: factor * value for key, value in call_loss(student[tap]).items()}
                    continue
                values, scale = self.shares[name](student[tap], factor, self.iteration, slopes.get(tap), call_loss)
            self.stats |= {
                f"share/{name}/{level}": x for level, x in zip(self.student_taps.level_names(tap), scale.unbind())
            }
            found |= values
        return found

    def _values(self, name: str, student: list[Tensor], teacher: list[Tensor], info: BatchInfo) -> Losses:
        """The values of one loss, unweighted, by their names in the log."""
        loss = self.losses[name]
        value = loss(student, teacher, info)
        named = (
            {f"loss_{name}_{part}": x for part, x in value.items()}
            if isinstance(value, dict)
            else {f"loss_{name}": value}
        )
        if sorted(named) != sorted(loss_names(name, loss)):
            raise ConfigError(
                f"the loss gave {', '.join(sorted(named))}, its attribute 'parts' announces "
                f"{', '.join(loss_names(name, loss))}"
            )
        self.stats |= {f"{name}/{stat}": x for stat, x in getattr(loss, "stats", {}).items()}
        return named

    def _measured(self, factors: Mapping[str, float]) -> set[str]:
        """The taps at which a loss with a factor other than 0 measures its share in this iteration."""
        names = (name for name, factor in factors.items() if factor and name in self.shares)
        return {self.configs[name].tap for name in names if self.shares[name].measures(self.iteration)}

    def _share(self, config: LossConfig) -> GradientShare:
        assert self.student_taps is not None, "a loss reads a tap"
        return GradientShare(len(self.student_taps.specs[config.tap]), config.calibrate)

    def _inactive(self, name: str, zero: Tensor) -> Losses:
        """Exact zeros under the names of an inactive loss; they reach its parameters, as distributed training asks."""
        loss = self.losses[name]
        kept = sum((p.flatten()[0] * 0.0 for p in loss.parameters() if p.requires_grad), zero)
        return dict.fromkeys(loss_names(name, loss), kept)

    def _release_teacher(self) -> None:
        if self.teacher is not None and all(c.schedule.over(self.iteration) for c in self.configs.values()):
            self.teacher = None

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "Distiller":
        if self.teacher is not None:
            self.teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)


def _zero_of(own: Losses, distilled: Losses) -> Tensor:
    values = [*own.values(), *distilled.values()]
    return torch.zeros((), device=values[0].device) if values else torch.zeros(())
