"""From two models and blocks of losses to a Distiller: the one way, for every task and framework, config or not."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from kd2.data.classes import same_order
from kd2.distill import (
    BatchInfo,
    ConfigError,
    Distiller,
    Probe,
    RunStudent,
    RunTeacher,
    Taps,
    Teacher,
    call,
    check_inside,
    no_batch_info,
    on_students_grids,
    probed,
)
from kd2.engine.built_model import BuiltModel
from kd2.engine.further_teachers import FurtherTeacher, first_losses, further_losses
from kd2.losses import active_losses, build_losses, class_losses

# What a loss may need of the batch info, see ``BatchInfo``.
EVERYTHING = frozenset({"sizes", "boxes", "anchors", "labels", "images", "coding", "proposals"})


@dataclass(frozen=True)
class Step:
    """How one training step of a task runs.

    Attributes:
        run_student, run_teacher, batch_info, own_losses: see ``Distiller``.
        offers: what ``batch_info`` tells, a subset of ``EVERYTHING``.
        reasons: of what it does not tell, why, as far as there is more to say.
        student_first: see ``Distiller``.
        unlabeled: whether a detector's batches end with images without labels. Run to its end, the teacher leaves its
            detections there as their boxes.
    """

    run_student: RunStudent = call
    run_teacher: RunTeacher = call
    batch_info: Callable[[Any], BatchInfo] = no_batch_info
    own_losses: Collection[str] = ()
    offers: Collection[str] = frozenset()
    reasons: Mapping[str, str] = field(default_factory=dict)
    student_first: bool = False
    unlabeled: bool = False


def make_distiller(
    student: nn.Module,
    teacher: nn.Module,
    *,
    taps: Sequence[str] | Mapping[str, Sequence[str]],
    losses: Mapping[str, Mapping[str, Any]],
    run_student: RunStudent = call,
    run_teacher: RunTeacher = call,
    batch_info: Callable[[Any], BatchInfo] | None = None,
    example_batch: Any = None,
    image_size: tuple[int, int] = (224, 224),
    seed: int = 0,
) -> Distiller:
    """Wrap any two networks for a training loop of one's own.

    ``distiller(batch)`` in train mode returns the student's own losses and those of distillation, weighted, ready to be
    summed. The optimizer takes ``distiller.parameter_groups(lr)``: student and adapters, nothing of the teacher.

    Args:
        student, teacher: any modules; the teacher is frozen here.
        taps: where to listen on both sides, ``alias=module.path[:key,key][@layout]``, see ``Tap``; or a dict with such
            lists under ``student`` and ``teacher``.
        losses: name -> block of options as under ``KD.LOSSES`` of a config, keys in either case.
        run_student: (student, batch) to the student's own losses by name, which may be none.
        run_teacher: (teacher, batch): the teacher's forward pass.
        batch_info: batch to BatchInfo, for losses that need boxes, labels or sizes.
        example_batch: a batch from which the shapes at the taps are learned; the names of the student's own losses too.
            None: a blank image, (1, 3, H, W), given to both networks as it is.
        image_size: (H, W) of the example's or the blank images in pixels, padding included.
        seed: of the draws that losses make.

    Raises:
        ConfigError: a tap, block or option that does not fit; a loss that needs what no ``batch_info`` tells; a loss
            called like one of the student's own.
    """
    sides = taps if isinstance(taps, Mapping) else {"student": taps, "teacher": taps}
    blank = torch.zeros(1, 3, *image_size)
    own: Collection[str] = ()
    if example_batch is None:
        runs = [lambda: student(blank), lambda: teacher(blank)]
    else:
        runs = [lambda: run_student(student, example_batch), lambda: run_teacher(teacher, example_batch)]
        own = _own_losses(student, run_student, example_batch)
    student_model, teacher_model = (
        BuiltModel(model, Probe(run, image_size), list(sides[side]), f"taps[{side!r}]")
        for side, model, run in zip(("student", "teacher"), (student, teacher), runs, strict=True)
    )
    offers = frozenset() if batch_info is None else EVERYTHING
    step = Step(run_student, run_teacher, batch_info or no_batch_info, own, offers)
    blocks = {name: _upper(name, block) for name, block in losses.items()}
    return assemble(student_model, teacher_model, step, blocks, seed)


def _upper(name: str, block: Mapping[str, Any]) -> dict[str, Any]:
    """A block of ``losses`` under the names of ``KD.LOSSES``; raises ConfigError when one of them comes twice."""
    found = {key.upper(): value for key, value in block.items()}
    if len(found) < len(block):
        raise ConfigError(
            f"losses[{name!r}] has the keys {', '.join(block)}, expected each once, in large or small letters"
        )
    return found


def assemble(
    student: BuiltModel,
    teacher: BuiltModel,
    step: Step,
    blocks: Mapping[str, Mapping[str, Any]],
    seed: int = 0,
    batch_statistics: bool = False,
    further: Sequence[FurtherTeacher] = (),
) -> Distiller:
    """The Distiller of two models. Making adapters draws nothing from the global random stream.

    Args:
        blocks: of ``KD.LOSSES``.
        batch_statistics: of the teacher, see ``Teacher``.
        further: teachers beside the first one.

    Raises:
        ConfigError: see ``make_distiller``.
    """
    active = active_losses(blocks)
    with torch.random.fork_rng(devices=[]):
        student_taps, teacher_taps = (_probed(model) for model in (student, teacher))
        specs = student_taps.specs
        further_taps = [_probed(f.model) for f in further]
        if further:
            losses, configs = first_losses(teacher, teacher_taps, active, student, specs, further_taps)
        else:
            losses, configs = build_losses(active, specs, on_students_grids(teacher_taps.specs, specs))
        others = [further_losses(f, own, active, student, specs) for f, own in zip(further, further_taps, strict=True)]
        for _, more_losses, more_configs in others:
            losses, configs = losses | more_losses, configs | more_configs
    needs = {name: set(getattr(loss, "needs", ())) for name, loss in losses.items()}
    for name, needed in needs.items():
        missing = needed - set(step.offers)
        if missing:
            raise ConfigError(
                f"KD.LOSSES.{name} needs {', '.join(sorted(missing))} of the batch, this task offers "
                f"{', '.join(sorted(step.offers)) or 'none'}{_reasons(missing, step)}"
            )
    if step.unlabeled:
        for taps in (student_taps, teacher_taps, *(other.teacher.taps for other, _, _ in others)):
            assert taps is not None, "a teacher of a loss is tapped"
            check_inside(taps, {config.tap for config in configs.values()})
    return Distiller(
        student.module,
        Teacher(teacher.module, teacher_taps, batch_statistics),
        student_taps,
        losses,
        configs,
        run_student=step.run_student,
        run_teacher=step.run_teacher,
        batch_info=step.batch_info,
        own_losses=step.own_losses,
        student_first=step.student_first,
        seed=seed,
        others=[other for other, _, _ in others],
        whole_teacher=step.unlabeled and any("boxes" in needed for needed in needs.values()),
    )


def check_pair(
    student: BuiltModel, teacher: BuiltModel, blocks: Mapping[str, Mapping], copied: str = "", several: bool = False
) -> None:
    """The only check of classes and color order. Classes count where a loss compares them one by one.

    Args:
        blocks: of ``KD.LOSSES``, those that count.
        copied: ``KD.INIT_FROM_TEACHER``; a copied head is one more reason.
        several: the teacher is one of several: losses compare the classes by name, as far as both sides have names.

    Raises:
        ConfigError: different numbers, names or orders of classes of one kind; color orders that cannot be converted.
    """
    compared = [] if several and student.names and teacher.names else class_losses(blocks)
    reasons = [f"KD.LOSSES.{name}" for name in compared] + ["KD.INIT_FROM_TEACHER"] * ("head" in copied)
    reasons += ["TEST.TEACHER"] * ("images" in teacher.classes)  # a classifier's teacher is scored beside it
    for kind in student.classes.keys() & teacher.classes.keys() if reasons else ():
        (key, count), (teacher_key, teacher_count) = student.classes[kind], teacher.classes[kind]
        if count != teacher_count:
            raise ConfigError(
                f"{teacher_key} of the teacher is {teacher_count}, {key} of the student is {count}; "
                f"{reasons[0]} compares their classes"
            )
        same_order(
            student.names.get(kind, ()),
            teacher.names.get(kind, ()),
            f"{reasons[0]} compares classes: the student's data",
            f"the teacher ({teacher.names_key})",
        )
    orders = student.color_order, teacher.color_order
    if len(set(orders)) > 1 and set(orders) != {"RGB", "BGR"}:
        raise ConfigError(
            f"INPUT.FORMAT: student {orders[0]!r}, teacher {orders[1]!r}; only RGB and BGR can be converted"
        )


def facts_of(student: BuiltModel, teacher: BuiltModel) -> dict[str, tuple[Any, Any]]:
    """Lines for the report of a dry run: name -> (student's, teacher's)."""
    counts = [", ".join(f"{count} {kind}" for kind, (_, count) in side.classes.items()) for side in (student, teacher)]
    weights = ["from scratch" if x.matched is None else f"{100 * x.matched:.1f} %" for x in (student, teacher)]
    more = {name: (student.facts.get(name), value) for name, value in teacher.facts.items()}
    return {
        "classes": (counts[0], counts[1]),
        "color order": (student.color_order, teacher.color_order),
        "matched weights": (weights[0], weights[1]),
        **more,
    }


def _reasons(missing: Collection[str], step: Step) -> str:
    return "".join(f"; {step.reasons[need]}" for need in sorted(missing) if need in step.reasons)


def _probed(model: BuiltModel) -> Taps:
    return probed(model.module, model.taps, model.probe, model.taps_key)


def _own_losses(student: nn.Module, run: RunStudent, batch: Any) -> list[str]:
    """Names of the losses that a copy of the student gives for a batch in train mode; the student stays as it is."""
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        return list(run(copy.deepcopy(student).train(), batch))
