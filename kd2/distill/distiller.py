"""The distiller: a student in training beside its frozen teacher.

A batch flows: teacher (no gradients, stopped behind its last tap) -> student -> batch info -> losses -> one dict. A
teacher that looks at what the student sampled runs behind the student.
"""

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kd2.distill.batch_info import BatchInfo
from kd2.distill.errors import ConfigError, naming
from kd2.distill.grids import cut_to_student
from kd2.distill.inactive import inactive_losses
from kd2.distill.loss_names import loss_names, refuse_shared
from kd2.distill.schedule import Schedule
from kd2.distill.shared_classes import SharedClasses
from kd2.distill.solver import Groups, clip_adapters, loss_groups, trained
from kd2.distill.taps import Captured, Maps, Taps
from kd2.distill.teacher import OtherTeacher, Teacher
from kd2.distill.weighting import GradientShare, gradients_at, refuse_constant

Losses = dict[str, Tensor]
RunStudent = Callable[[nn.Module, Any], Losses]
RunTeacher = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True)
class LossConfig:
    """How the distiller uses one loss.

    Attributes:
        tap: what it reads on both sides.
        schedule: its weight over time; with ``calibrate`` its share, see ``kd2.distill.weighting``.
        calibrate: the first iterations, one after another, in which gradients are measured for a share; 0: the schedule
            is that of a weight.
        adapter_lr: the learning rate of what the loss trains beside the student, over that of the student.
        teacher: name of the ``OtherTeacher`` that teaches it; empty: the first one.
        shared: channels of both sides that it compares; None: all.
    """

    tap: str
    schedule: Schedule
    calibrate: int = 0
    adapter_lr: float = 1.0
    teacher: str = ""
    shared: SharedClasses | None = None


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
        student_first: the student runs before the teacher; otherwise after it, which needs less memory.
        seed: the run's seed, handed to the losses through the batch info.
        others: further teachers, whose losses name them.
        whole_teacher: run the teacher to its end instead of behind its last tap.

    Raises:
        ConfigError: a name in the log that two losses would share.

    Attributes:
        iteration: optimizer steps done so far. Every forward pass in train mode adds one; a loop that counts otherwise
            (a resumed one, or one that accumulates gradients) sets it before each pass.
        batch: number of the next batch among those of its optimizer step; a loop that accumulates gradients sets it.
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
        student_first: bool = False,
        seed: int = 0,
        others: Sequence[OtherTeacher] = (),
        whole_teacher: bool = False,
    ):
        super().__init__()
        self.student = student
        self.losses = nn.ModuleDict(losses or {})
        self.configs = dict(configs or {})
        self.student_taps = student_taps
        self.teacher, self.others = teacher, list(others)
        self.shared = nn.ModuleDict({name: c.shared for name, c in self.configs.items() if c.shared is not None})
        self.shares = nn.ModuleDict(
            {name: self._share(name, config) for name, config in self.configs.items() if config.calibrate}
        )
        self.run_student, self.run_teacher, self.batch_info = run_student, run_teacher, batch_info
        self.student_first, self.seed, self.whole_teacher = student_first, seed, whole_teacher
        self.iteration = self.batch = 0
        self.stats: dict[str, Tensor] = {}
        names = [name for loss in self.losses for name in loss_names(loss, self.losses[loss])]
        refuse_shared(names, own_losses)

    @property
    def adapters(self) -> nn.ModuleDict:
        """What distillation trains beside the student, by the name of the loss; it never enters the student's file."""
        return self.losses

    def parameter_groups(self, lr: float) -> Groups:
        """Groups for any optimizer of ``torch.optim``: the student at the learning rate ``lr``, the adapters of each
        loss at ``LossConfig.adapter_lr`` times that, parts with a solver of their own.
        """
        return trained(self.student, lr) + self.adapter_groups(functools.partial(trained, lr=lr))

    def adapter_groups(self, groups_of: Callable[[nn.Module], Groups]) -> Groups:
        """The optimizer groups of all but the student; ``groups_of`` groups the parameters of any module, with their
        ``lr``, as the run does.
        """
        rates = {name: config.adapter_lr for name, config in self.configs.items()}
        return loss_groups(self.losses, rates, groups_of)

    def clip_adapters(self) -> None:
        """Clip the adapters' gradients, of each loss apart from everything else; a loop of one's own calls it between
        the backward pass and the optimizer's step (behind ``GradScaler.unscale_``).

        Adapters learn at the loss's full strength, whatever reaches the student: without it a loss of large values
        diverges.
        """
        clip_adapters(self.losses)

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
            # Of the whole nothing is compiled; networks that are compiled themselves stay so. As a decorator it would
            # import the compiler, which takes longer than everything else, with every command.
            own, distilled = torch.compiler.disable(self.evaluate)(batch, factors)
        else:
            self._release_teacher()
            own = dict(self.run_student(self.student, batch))
            distilled = {}
        idle = {name: self.losses[name] for name, factor in factors.items() if not factor}
        distilled |= inactive_losses(idle, [*own.values(), *distilled.values()])
        refuse_shared([*distilled], own)
        self.iteration += 1
        return own | distilled

    def evaluate(self, batch: Any, factors: Mapping[str, float]) -> tuple[Losses, Losses]:
        """The student's own losses of a batch, and those of distillation times their factor, none for a factor of 0."""
        teacher = None if self.student_first else self.teacher_features(batch)
        # Inside a compiled region nothing depends on a map that it also gives out: a measurement runs uncompiled.
        eager = torch.compiler.set_stance("force_eager") if self._measured(factors) else contextlib.nullcontext()
        with eager:
            own, student = self.student_features(batch)
        if teacher is None:
            teacher = self.teacher_features(batch)
        return own, self.distillation_losses(own, student, teacher, self.placed_batch_info(batch), factors)

    def teacher_features(self, batch: Any) -> Maps:
        """The maps of all teachers of a batch, see ``Teacher.features``."""
        assert self.teacher is not None, "without losses there is no teacher"
        maps = self.teacher.features(self.run_teacher, batch, stop=not self.whole_teacher)
        return {alias: x for each in (maps, *(t.features(batch) for t in self.others)) for alias, x in each.items()}

    def student_features(self, batch: Any) -> tuple[Losses, Captured]:
        """The student's own losses of a batch, and its maps."""
        assert self.student_taps is not None, "without losses nothing is tapped"
        with self.student_taps.capture() as maps:
            own = dict(self.run_student(self.student, batch))
        return own, maps

    def placed_batch_info(self, batch: Any) -> BatchInfo:
        """The batch info with what the run knows: iteration, batch, seed, and which of its processes this is."""
        info = self.batch_info(batch)
        info.iteration, info.batch, info.seed = self.iteration, self.batch, self.seed
        if distributed.is_available() and distributed.is_initialized():
            info.rank, info.ranks = distributed.get_rank(), distributed.get_world_size()
        return info

    def distillation_losses(
        self, own: Losses, student: Captured, teacher: Maps, info: BatchInfo, factors: Mapping[str, float]
    ) -> Losses:
        """Every loss with a factor other than 0 by its name in the log: times its weight, or with its share's gradient.

        Raises:
            ConfigError: a share of a student that sends no gradient of its own into the tap; a weight where none of
                the maps has a gradient.
            NonFiniteLoss: gradients that a share is of stay NaN or infinite.
        """
        assert self.student_taps is not None, "a loss reads a tap"
        active = {name: factor for name, factor in factors.items() if factor}
        sources = {tap: student.sources[tap] for tap in self._measured(factors)}
        slopes = {tap: student.inside_maps(tap, found) for tap, found in gradients_at(own, sources).items()}
        found: Losses = {}
        for name, factor in active.items():
            tap, info.loss_name = self.configs[name].tap, name
            taught = self._taught(name, teacher, student[tap])
            call_loss = functools.partial(self._values, name, teacher=taught, info=info)
            with naming(f"KD.LOSSES.{name}"):
                if name not in self.shares:
                    refuse_constant(student[tap])
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
        if name in self.shared:
            student, teacher = self.shared[name](student, teacher)
        value = loss(student, teacher, info)
        several = isinstance(value, dict)
        named = {f"loss_{name}_{part}": x for part, x in value.items()} if several else {f"loss_{name}": value}
        if sorted(named) != sorted(loss_names(name, loss)):
            raise ConfigError(
                f"the loss gave {', '.join(sorted(named))}, its attribute 'parts' announces "
                f"{', '.join(loss_names(name, loss))}"
            )
        self.stats |= {f"{name}/{stat}": x for stat, x in getattr(loss, "stats", {}).items()}
        return named

    def _taught(self, name: str, teachers: Maps, student: list[Tensor]) -> list[Tensor]:
        """The maps that a loss reads of its teacher, on the student's grid."""
        tap, named = self.configs[name].tap, self.configs[name].teacher
        teacher = next((other.teacher for other in self.others if other.name == named), self.teacher)
        assert teacher and teacher.taps and self.student_taps, "a loss reads a tap of both"
        maps = teachers[f"{named}.{tap}" if named else tap]
        return cut_to_student(maps, student, teacher.taps.specs[tap], self.student_taps.specs[tap])

    def _measured(self, factors: Mapping[str, float]) -> set[str]:
        """The taps at which a loss with a factor other than 0 measures its share in this iteration."""
        shares: dict[str, Any] = dict(self.shares.items())
        active = [name for name, factor in factors.items() if factor and name in shares]
        return {self.configs[name].tap for name in active if shares[name].measures(self.iteration)}

    def _share(self, name: str, config: LossConfig) -> GradientShare:
        assert self.student_taps is not None, "a loss reads a tap"
        return GradientShare(name, len(self.student_taps.specs[config.tap]), config.calibrate)

    def _release_teacher(self) -> None:
        if self.teacher is not None and all(c.schedule.over(self.iteration) for c in self.configs.values()):
            self.teacher, self.others = None, []

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> "Distiller":
        for teacher in (self.teacher, *(other.teacher for other in self.others)):
            if teacher is not None:
                teacher.apply(fn)
        return super()._apply(fn, *args, **kwargs)
