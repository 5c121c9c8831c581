"""Does distillation pay: the grid, the journal, hashes, and a series with a stub for training."""

import contextlib
import fcntl
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks import pays
from benchmarks.proof import child, series
from benchmarks.proof.fingerprint import ROOT, as_words
from benchmarks.proof.grid import Grid, Run
from benchmarks.proof.journal import Journal
from benchmarks.proof.series import Series
from benchmarks.proof.teachers import Teacher, teacher_of, write_scaled
from kd2.cli import guarded
from kd2.config import load
from kd2.distill import ConfigError
from tests.helpers.toy_grid import Trainings, work


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


def teacher_without_file(toys):
    """A teacher that the journal has, trained on another machine, and the series that is to train it again."""
    run, journal = Grid("toys").teacher("torchvision"), Journal(toys / "toys.jsonl")
    journal.append({"status": "finished", "road": run.road, "hash": run.hash, "seed": run.seed})
    one, source = Series(journal, toys / "pays"), str(toys / "trained.pth")
    one.output.mkdir()
    return Teacher(run, False, source, source), one


def test_a_teacher_of_another_machine_is_trained_again_inside_the_claim(toys, monkeypatch):
    teacher, one = teacher_without_file(toys)

    def training(tool, words, log):
        with one._claimed(teacher.run.folder) as free:
            assert not free
        Path(teacher.source).write_bytes(b"weights")
        return Trainings()(tool, words, log)

    monkeypatch.setattr(series.child, "call", training)
    assert one.prepare(teacher) == teacher.source
    assert len(one.journal.records(status="started")) == 1


def test_a_teacher_that_another_process_trains_again_is_waited_for(toys, monkeypatch):
    teacher, one = teacher_without_file(toys)
    trainings, slept = Trainings(), []
    monkeypatch.setattr(series.child, "call", trainings)
    with contextlib.ExitStack() as other:
        other.enter_context(one._claimed(teacher.run.folder))

        def other_ends(seconds):
            slept.append(seconds)
            Path(teacher.source).write_bytes(b"weights")
            other.close()

        monkeypatch.setattr(series.time, "sleep", other_ends)
        assert one.prepare(teacher) == teacher.source
    assert (len(slept), trainings.calls) == (1, [])


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
        Journal(path).append({"text": "x" * 5000, "status": "started", "road": "x", "hash": "x", "seed": 1})


def test_a_line_behind_one_that_was_cut_off_is_whole(tmp_path):
    journal = Journal(tmp_path / "a.jsonl")
    journal.path.write_text('{"status": "fin')
    journal.append({"status": "started"})
    assert journal.path.read_text().splitlines()[1] == '{"status": "started"}'


@pytest.mark.parametrize("line", ['{"status": "fin', "", "[1, 2]", '{"road": "x"}'])
def test_a_line_that_is_no_record_is_named(tmp_path, line):
    journal = Journal(tmp_path / "a.jsonl")
    journal.append(dict.fromkeys(("status", "road", "hash", "seed"), 1))
    journal.path.write_text(journal.path.read_text() + line + "\n")
    with pytest.raises(ConfigError, match=r"a.jsonl, line 2, is no record of a run: "):
        journal.records()


@pytest.mark.parametrize("words", [["--seeds", "0"], ["--first-seed", "-5"], ["--iterations", "0"], ["--variant", "x"]])
def test_wrong_arguments_are_refused_before_anything_is_written(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pays.py", "--data", "bccd", "--table", *words])
    assert guarded(pays.main) == 1
    assert words[0] in capsys.readouterr().err


def test_a_teacher_that_is_no_file_is_an_error(toys):
    with pytest.raises(ConfigError, match="--teacher names another"):
        teacher_of(Grid("toys"), "torchvision", "main", str(toys / "absent.pth"), None, toys)


def test_factors_multiply_the_weights_that_they_name(toys):
    teacher = teacher_of(Grid("toys"), "torchvision", "times10", None, None, toys)
    write_scaled(teacher)
    state = torch.load(teacher.weights, weights_only=True)["model"]
    assert (state["fpn.weight"].tolist(), state["head.weight"].tolist()) == ([10.0, 10.0], [1.0, 1.0])


def test_a_scaled_copy_whose_writing_is_cut_off_is_not_there(toys, monkeypatch):
    teacher = teacher_of(Grid("toys"), "torchvision", "times10", None, None, toys)

    def cut_off(content, file):
        with contextlib.nullcontext(file) if hasattr(file, "write") else open(file, "wb") as opened:
            opened.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        write_scaled(teacher)
    assert not Path(teacher.weights).exists()


def test_scores_of_two_sets_are_told_apart_and_those_of_classes_left_out():
    log = "text\n| metric | value |\n|---|---|\n| a/AP | 1.5 |\n| b/AP   | nan   |\n| a/AP-cell | 2.0 |\n"
    found = child.scores(log, {"val": "a", "test": "b"})
    assert found["val"] == {"AP": 1.5} and found["test"]["AP"] != found["test"]["AP"]


def test_a_teacher_is_refused_where_the_section_has_its_own(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pays.py", "--data", "bccd", "--variant", "mgd_self", "--teacher", "x.pth"])
    monkeypatch.setattr(Series, "prepare", lambda *_: pytest.fail("it began to work"))
    assert guarded(pays.main) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--teacher is 'x.pth', but the section mgd_self has a teacher of its own" in line


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


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_run_ends_with_the_command_that_was_killed(tmp_path):
    (tmp_path / "run.py").write_text("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)\n")
    code = (
        f"from benchmarks.proof.child import call; from pathlib import Path; call('{tmp_path}/run.py', [], Path('log'))"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, start_new_session=True
    )
    log = tmp_path / "log"
    waited(lambda: log.is_file() and log.read_text().strip())
    run = Path(f"/proc/{log.read_text().strip()}")
    command.kill(), command.wait()
    waited(lambda: not run.exists() or (run / "stat").read_text().rpartition(")")[2].split()[0] == "Z")


def waited(done: Callable[[], object]) -> None:
    """Until something is done, at most a minute."""
    for _ in range(600):
        if done():
            return
        time.sleep(0.1)
    raise AssertionError("it was not done in a minute")


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("error: /data/a b/x.json: no such file", "error: a b/x.json: no such file"),
        ("saved in /home/me/out/model_9.pth; python: /usr/bin/python", "saved in model_9.pth; python: python"),
        ("error: '/data/x' is 1/2 of http://host/a/b.pth", "error: 'x' is 1/2 of http://host/a/b.pth"),
        ("error: configs/bccd/x.yaml: KD is 3", "error: configs/bccd/x.yaml: KD is 3"),
    ],
)
def test_an_error_in_the_journal_says_nothing_of_the_machine(line, kept):
    assert child.End(1, 1.0, 1.0, f"much\n{line}\n").error == kept
