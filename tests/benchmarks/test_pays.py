"""Does distillation pay: the grid, the journal, a series with a stub for training, and the page."""

import fcntl
import json
import multiprocessing
from pathlib import Path

import pytest
import torch

from benchmarks.proof import child, grid, page, series
from benchmarks.proof.child import End
from benchmarks.proof.fingerprint import ROOT, as_words, fingerprint
from benchmarks.proof.grid import Grid, Run
from benchmarks.proof.journal import Journal
from benchmarks.proof.series import Series, lengthened
from benchmarks.proof.teachers import teacher_of, write_scaled
from kd2.config import load
from kd2.distill import ConfigError
from kd2.losses.registry import complete_losses

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


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The grid ``toys`` with its teacher's file and page, in a folder of its own."""
    (tmp_path / "toys.yaml").write_text(GRID)
    (tmp_path / "page.md").write_text(PAGE)
    torch.save({"model": {"fpn.weight": torch.ones(2), "head.weight": torch.ones(2)}}, tmp_path / "teacher.pth")
    monkeypatch.setattr(grid, "GRIDS", tmp_path)
    monkeypatch.setattr(child, "commit", lambda: ("abc", True))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


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


def write(folder, journal):
    page.write_page(Grid("toys"), journal, folder / "pays", folder / "page.md")
    return (folder / "page.md").read_text()


def hash_of(**options):
    return fingerprint(str(ROOT / "configs/torchvision/bccd/imitation.yaml"), {"KD.LOSSES": {}} | options)


def gains(row, seed):
    """Alone 40, 41, 42 on the test split; imitation 45, 47, 46.5 (5, 6 and 4.5 more); the teacher 51."""
    if row == "teacher":
        return 50.0, 51.0
    alone = 39.0 + seed
    return (alone, alone) if row == "{}" or "WEIGHT" in row else (0.0, alone + (5.0, 6.0, 4.5)[seed - 1])


def test_a_run_that_the_journal_has_is_not_repeated(toys, monkeypatch):
    first, second = Trainings(), Trainings()
    work(toys, monkeypatch, first)
    work(toys, monkeypatch, second)
    assert (len(first.calls), second.calls) == (1 + 4 * 3, [])


def test_seeds_come_one_after_the_other_so_that_a_stopped_series_has_pairs(toys, monkeypatch):
    trainings = Trainings()
    work(toys, monkeypatch, trainings)
    assert [seed for _, seed, _ in trainings.calls[1:]] == [1] * 4 + [2] * 4 + [3] * 4


def test_a_failed_run_is_kept_and_not_repeated_but_on_demand(toys, monkeypatch):
    journal = work(toys, monkeypatch, Trainings(lambda row, seed: 1 if "WEIGHT" in row and seed == 2 else (40.0, 41.0)))
    (failed,) = journal.records(status="failed")
    assert (failed["row"], failed["seed"], failed["error"]) == ("imitation, weight", 2, "error: the loss is nan")
    again = Trainings()
    work(toys, monkeypatch, again)
    assert again.calls == []
    work(toys, monkeypatch, again, again=True)
    assert [seed for _, seed, _ in again.calls] == [2]


def test_a_run_that_a_signal_ended_is_repeated(toys, monkeypatch):
    work(toys, monkeypatch, Trainings(lambda row, seed: 143 if row == "{}" and seed == 3 else (40.0, 41.0)))
    again = Trainings()
    work(toys, monkeypatch, again)
    assert [(row, seed) for row, seed, _ in again.calls] == [("{}", 3)] * 2


def test_a_run_of_another_process_is_left_to_it(toys, monkeypatch):
    monkeypatch.setattr(series.child, "call", Trainings())
    one = Series(Journal(toys / "toys.jsonl"), toys / "pays")
    run = Grid("toys").runs("torchvision", "main", [1], str(toys / "teacher.pth"))[0]
    one.output.mkdir()
    with (one.output / f"{run.folder}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert one.train(run) is None
    assert one.train(run)["status"] == "finished"


def test_the_longer_student_has_the_iterations_that_the_costliest_default_loss_is_worth(toys, monkeypatch):
    trainings = Trainings()
    work(toys, monkeypatch, trainings)
    assert [length for row, seed, length in trainings.calls if row == "{}" and seed == 1] == [100, 150]


def test_every_start_and_every_end_is_a_line(toys, monkeypatch):
    journal = work(toys, monkeypatch, Trainings())
    assert len(journal.records(status="started")) == len(journal.records(status="finished")) == 13
    line = journal.records(status="finished", row="imitation", seed=2)[0]
    told = [line[key] for key in ("data", "road", "commit", "clean", "iterations", "wall_seconds", "cpu_seconds")]
    assert told == ["toys", "torchvision", "abc", True, 100, 2.0, 1.5]
    assert (line["val"], line["test"]) == ({"bbox/AP": 40.0}, {"bbox/AP": 41.0})


def test_lines_of_two_processes_stay_whole(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append_many, args=(tmp_path / "x.jsonl",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(Journal(tmp_path / "x.jsonl").records(text="x" * 5000)) == 100


def append_many(path):
    for _ in range(50):
        Journal(path).append({"text": "x" * 5000})


def test_the_effective_share_is_in_the_hash():
    weights = {"KD.TEACHER.WEIGHTS": str(ROOT / "setup.py")}
    share = complete_losses({"mgd": {}})["mgd"]["SHARE"]
    default = hash_of(**weights, **{"KD.LOSSES": {"mgd": {}}})
    assert default == hash_of(**weights, **{"KD.LOSSES": {"mgd": {"SHARE": share}}})
    assert default != hash_of(**weights, **{"KD.LOSSES": {"mgd": {"SHARE": share / 2}}})


def test_where_a_run_lies_and_what_it_scores_is_not_in_the_hash():
    moved = {"OUTPUT_DIR": "x", "SEED": 7, "DATASETS.TEST": ["y"], "DATASETS.CUSTOM.y": {"JSON": "y", "IMAGES": "y"}}
    assert hash_of() == hash_of(**moved) != hash_of(**{"SOLVER.BASE_LR": 0.5})


def test_a_student_alone_is_one_run_whatever_is_tapped_beside_it():
    assert hash_of() == hash_of(**{"KD.STUDENT.TAPS": ["fpn=backbone:0"], "KD.TEACHER.TAPS": ["fpn=backbone:1"]})


def test_the_teacher_counts_by_its_content_for_those_that_it_teaches(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for file, text in ((one, "1"), (same, "1"), (other, "2")):
        file.write_text(text)
    taught = [hash_of(**{"KD.LOSSES": {"mgd": {}}, "KD.TEACHER.WEIGHTS": str(x)}) for x in (one, same, other)]
    assert taught[0] == taught[1] != taught[2]
    assert hash_of(**{"KD.TEACHER.WEIGHTS": str(one)}) == hash_of(**{"KD.TEACHER.WEIGHTS": str(other)})


def test_a_teacher_that_is_no_file_is_an_error(toys):
    with pytest.raises(ConfigError, match="--teacher names another"):
        teacher_of(Grid("toys"), "torchvision", "main", str(toys / "absent.pth"), None, toys)


def test_factors_multiply_the_weights_that_they_name(toys):
    teacher = teacher_of(Grid("toys"), "torchvision", "times10", None, None, toys)
    write_scaled(teacher)
    state = torch.load(teacher.weights, weights_only=True)["model"]
    assert (state["fpn.weight"].tolist(), state["head.weight"].tolist()) == ([10.0, 10.0], [1.0, 1.0])


def test_the_page_has_paired_differences_recovery_and_time(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(gains)))
    # 5, 6 and 4.5: 4.3027 * 0.7638 / sqrt(3) around 5.1667; 5.1667 of the 10 points up to the teacher.
    assert cells(text, "imitation, torchvision") == ["41.0 -> 46.2", "+5.2 [+3.3, +7.1]", "52 %", "1.50", "3"]
    assert cells(text, "teacher")[1:3] == ["51.0", "50.0"]
    assert cells(text, "imitation above the student alone")[-1] == "holds"
    assert "kept" in text and "former table" not in text


def test_what_cannot_be_told_apart_is_said_in_words(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(lambda row, seed: (40.0, 40.0 + (-1) ** seed * len(row)))))
    assert cells(text, "imitation, weight")[-1] == "not distinguishable from the student alone"
    assert cells(text, "imitation above the student alone")[-1] == "cannot be told"


def test_a_failed_run_is_in_the_table(toys, monkeypatch):
    journal = work(toys, monkeypatch, Trainings(lambda row, seed: 1 if "WEIGHT" in row and seed == 2 else (40.0, 41.0)))
    text = write(toys, journal)
    assert cells(text, "imitation, weight")[-2] == "2 of 3"
    assert "Started, without a score: imitation, weight, seed 2: error: the loss is nan." in text


def test_runs_of_other_settings_stay_on_the_page(toys, monkeypatch):
    journal = work(toys, monkeypatch, Trainings())
    former = journal.records(status="finished", row="imitation")[0] | {"hash": "former", "seed": 11}
    journal.append(former | {"status": "started"})
    journal.append(former)
    last = write(toys, journal).split("Other runs that were started")[1]
    assert cells(last, "imitation") == ["torchvision", "main", "100", "11", "1", "40.0", "abc"]


def test_below_a_variant_stands_what_the_unchanged_pair_gains(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(gains)))
    # The student alone of both sections is one run, so that the variant has a table already.
    assert "**Larger maps, torchvision**, 100 iterations" in text
    assert "The unchanged pair:" not in text
    text = write(toys, work(toys, monkeypatch, Trainings(gains), section="times10"))
    assert "The unchanged pair: imitation +5.2 [+3.3, +7.1]." in text


def test_a_page_without_a_mark_is_refused():
    with pytest.raises(ConfigError, match="pays: toys"):
        page.replaced("# Results\n", "toys", "x")


def test_scores_of_two_sets_are_told_apart_and_those_of_classes_left_out():
    log = "text\n| metric | value |\n|---|---|\n| a/AP | 1.5 |\n| b/AP   | nan   |\n| a/AP-cell | 2.0 |\n"
    found = child.scores(log, {"val": "a", "test": "b"})
    assert found["val"] == {"AP": 1.5} and found["test"]["AP"] != found["test"]["AP"]


@pytest.mark.parametrize("data", ["bccd", "camvid", "cifar", "nuclei"])
def test_every_row_of_the_shipped_grids_is_a_config_without_errors(data, tmp_path, monkeypatch):
    (tmp_path / "teacher.pth").write_bytes(b"")
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "resnet20.pth").write_bytes(b"")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    shipped = Grid(data)
    for section in shipped.file["sections"]:
        for road in shipped.roads(section):
            for run in shipped.runs(road, section, [1], str(tmp_path / "teacher.pth")):
                checked(run)


def checked(run: Run) -> None:
    defaults = None
    if run.road == "detectron2":
        pytest.importorskip("detectron2")
        from detectron2.config import get_cfg

        from kd2.engine.detectron2.config import add_d2_config

        defaults = add_d2_config(get_cfg())
    load(str(ROOT / run.config), as_words(run.options), defaults)


def cells(text: str, name: str) -> list[str]:
    """The cells behind the first one of the first row of a table whose first cell begins with ``name``."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip() for cell in line.strip("|").split("|")][1:]
