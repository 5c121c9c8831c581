"""A grid of toys for ``benchmarks/pays.py``, and a stub for the processes that train."""

import json
from pathlib import Path

from benchmarks.proof import page, series
from benchmarks.proof.child import End
from benchmarks.proof.grid import Grid
from benchmarks.proof.journal import Journal
from benchmarks.proof.series import Series, lengthened
from benchmarks.proof.teachers import teacher_of

GRID = """
title: "Toys"
metric: bbox/AP
splits: {val: toy_val, test: toy_test}
iterations: 100
roads:
  torchvision:
    config: configs/torchvision/bccd/imitation.yaml
    teacher: {config: configs/torchvision/bccd/teacher.yaml, weights: teacher.pth}
sections:
  main:
    seeds: 3
    claim: imitation above the student alone
    published: "much"
    pairs: [[imitation, alone]]
    rows:
      alone: {losses: {}}
      alone, longer: {losses: {}, longer: True}
      imitation: {losses: {imitation: {}}}
      imitation, weight: {losses: {imitation: {WEIGHT: 0.01}}, published: "0.01"}
  times10:
    title: Larger maps
    seeds: 3
    scale: {"fpn.*": 10}
    rows: {alone: {losses: {}}, imitation: {losses: {imitation: {}}}}
"""
PAGE = (
    "<!-- pays: toys, short -->\nformer table\n<!-- end of pays -->\nkept\n<!-- pays: toys -->\n<!-- end of pays -->\n"
)


class Trainings:
    """Stands for child processes: keeps what was called, and ends as it is told.

    ``scores`` gives (val, test) of a row and seed, or an exit code.
    """

    def __init__(self, scores=lambda row, seed: (40.0, 41.0)):
        self.calls, self.scores = [], scores

    def __call__(self, tool, words, log):
        options = dict(zip(words[-2::-2], words[::-2], strict=False))
        if tool == "benchmark.py":
            log.parent.mkdir(parents=True, exist_ok=True)
            Path(words[words.index("--json") + 1]).write_text(json.dumps({"ratio": 1.504}))
            return End(0, 1.0, 1.0, "")
        row = "teacher" if "--eval-only" in words else options["KD.LOSSES"]
        self.calls.append((row, int(options["SEED"]), int(options.get("SOLVER.MAX_ITER", 0))))
        found = self.scores(row, int(options["SEED"]))
        if isinstance(found, int):
            return End(found, 2.0, 1.5, "INFO\nerror: the loss is nan\n")
        lines = [f"| toy_{split}/bbox/AP | {x} |" for split, x in zip(("val", "test"), found, strict=True)]
        return End(0, 2.0, 1.5, "\n".join(["| metric | value |", "|---|---|", *lines]))


def work(folder, monkeypatch, trainings, section="main", **options):
    """One pass over a section; the journal."""
    monkeypatch.setattr(series.child, "call", trainings)
    journal = Journal(folder / "toys.jsonl")
    one, toys = Series(journal, folder / "pays", **options), Grid("toys")
    weights = one.prepare(teacher_of(toys, "torchvision", section, None, None, one.output))
    runs = toys.runs("torchvision", section, [1, 2, 3], weights)
    one.measure([run for run in runs if run.default and run.seed == 1])
    for run in lengthened(runs, runs, journal):
        one.train(run)
    return journal


def write(folder, journal, data="toys"):
    page.write_page(Grid(data), journal, folder / "pays", folder / "page.md")
    return (folder / "page.md").read_text()


def gains(row, seed):
    """Alone 40, 41, 42 on the test split; imitation 45, 47, 46.5 (5, 6 and 4.5 more); the teacher 51."""
    if row == "teacher":
        return 50.0, 51.0
    alone = 39.0 + seed
    return (alone, alone) if row == "{}" or "WEIGHT" in row else (0.0, alone + (5.0, 6.0, 4.5)[seed - 1])


def cells(text: str, name: str) -> list[str]:
    """The cells behind the first one of the first row of a table whose first cell begins with ``name``."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]
