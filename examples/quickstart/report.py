"""The result of a quick start: a table, a verdict in words, and both as Markdown and JSON."""

import json
import os
from dataclasses import asdict, dataclass

from examples.quickstart.measure import Cost
from kd2.cli import table
from kd2.runs.files import write_atomically

_HEADER = ("model", "AP", "AP50", "parameters (M)", "GFLOPs", "CPU latency (ms)", "iterations", "training (s)")


@dataclass(frozen=True)
class Entry:
    """One trained detector.

    Attributes:
        name: teacher, student or distilled.
        ap, ap50: on the validation images, in percent.
        seconds: of its training and evaluation.
        losses: its own detection loss (without distillation losses) at every iteration.
        ap_at: iteration -> AP, where it was evaluated.
    """

    name: str
    ap: float
    ap50: float
    cost: Cost
    seconds: float
    losses: list[float]
    ap_at: dict[int, float]


@dataclass(frozen=True)
class Setting:
    """What all three have in common.

    Attributes:
        train_images, val_images: their numbers.
        image_size: height and width of the first validation image.
        threads: torch's threads on the CPU.
        seconds: of everything.
    """

    data: str
    classes: tuple[str, ...]
    train_images: int
    val_images: int
    image_size: tuple[int, int]
    batch_size: int
    seed: int
    threads: int
    seconds: float


def rows(entries: list[Entry]) -> str:
    """The Markdown table, a row a model."""
    return table(
        _HEADER,
        [
            (
                e.name,
                f"{e.ap:.1f}",
                f"{e.ap50:.1f}",
                f"{e.cost.parameters / 1e6:.2f}",
                f"{e.cost.gflops:.2f}",
                f"{e.cost.latency_ms:.1f}",
                len(e.losses),
                f"{e.seconds:.0f}",
            )
            for e in entries
        ],
    )


def verdict(teacher: Entry, student: Entry, distilled: Entry) -> str:
    """Whether distillation paid, in words."""
    gain = distilled.ap - student.ap
    figures = f"AP {distilled.ap:.1f} against {student.ap:.1f} of the student alone ({gain:+.1f})"
    text = f"The distilled student wins: {figures}." if gain > 0 else f"The distilled student did not win: {figures}."
    if teacher.ap <= student.ap:
        text += f" Mind that the teacher (AP {teacher.ap:.1f}) is no better than the student alone."
    return text


def markdown(entries: list[Entry], setting: Setting) -> str:
    """The whole report."""
    height, width = setting.image_size
    return f"""# Quick start

{rows(entries)}

**{verdict(*entries)}** One run with one seed; other seeds (`--seed`) show the spread.

- Data: {setting.data}, {len(setting.classes)} classes; {setting.train_images} images for training, {setting.val_images}
  for validation.
- Every model: trained from scratch in batches of {setting.batch_size} with seed {setting.seed}. Student and distilled
  student differ in the distillation loss alone.
- AP and AP50: COCO's, in percent, on the validation images.
- GFLOPs (a multiply-add counts as two) and CPU latency (median, pre- and postprocessing included): one image of
  {width} x {height} pixels. CPU threads: {setting.threads}. The time of training includes that of evaluation.
- Everything on this page was measured in this run, which took {setting.seconds / 60:.1f} minutes.

![Loss and AP during training](curves.png)
![Detections on validation images](predictions.png)

The first validation images with every model's detections: score in percent, the best of boxes that overlap.
"""


def write(folder: str, entries: list[Entry], setting: Setting) -> dict:
    """Write ``report.md`` and ``report.json``; returns the content of the latter."""
    content = {
        "setting": asdict(setting),
        "models": {e.name: {k: v for k, v in asdict(e).items() if k != "name"} for e in entries},
        "distilled_wins": entries[2].ap > entries[1].ap,
        "verdict": verdict(*entries),
    }
    write_atomically(markdown(entries, setting), os.path.join(folder, "report.md"))
    write_atomically(json.dumps(content, indent=1), os.path.join(folder, "report.json"))
    return content
