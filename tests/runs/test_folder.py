"""The folder of a run: whose it is, what a run may change there, which checkpoint is the last."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from kd2.distill import ConfigError
from kd2.runs.folder import (
    begin,
    check_writable,
    claimed,
    keep,
    keep_final,
    last_checkpoint,
    resumable,
    tag_last_checkpoint,
)

NEW = Namespace(resume=False, overwrite=False)
RESUME = Namespace(resume=True, overwrite=False)
OVERWRITE = Namespace(resume=False, overwrite=True)
HOLDS = """
import sys
from argparse import Namespace
from kd2.runs.folder import claimed
with claimed(sys.argv[1], Namespace(resume=False, overwrite=False)):
    print("held", flush=True)
    {then}
    sys.stdin.read()
"""


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def claim(folder: Path, args: Namespace = NEW) -> None:
    with claimed(str(folder), args):
        pass


@pytest.fixture
def used(tmp_path):
    """The folder of a finished run, in which a user left files too."""
    claim(tmp_path)
    begin(str(tmp_path), "A: 1", overwrite=False)
    for number in (2, 4):
        keep({"iteration": number - 1}, str(tmp_path / f"model_{number:07d}.pth"), 0)
    keep({"iteration": 3}, str(tmp_path / "model_final.pth"), 0)
    logs = ["log.txt", "log.txt.rank1", "metrics.json", "error.log", "events.out.tfevents.1.host.2.0", "student.yaml"]
    for name in [*logs, "results.json", "csv/version_0/metrics.csv", "model_best.pth", "hparams.yaml"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in USERS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


USERS = {"notes.txt", "model_mine.pth", "model_0000002.pth.bak", "data/config.yaml", "csv/mine.csv", "a.partial"}


def holding(folder: Path, then: str = "") -> subprocess.Popen:
    """Another process that holds ``folder`` until its input ends."""
    words = [sys.executable, "-c", HOLDS.format(then=then), str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_refused_while_the_first_one_trains(tmp_path):
    with holding(tmp_path) as process:
        with pytest.raises(ConfigError, match="is in use: another process trains there; name another folder"):
            claim(tmp_path, RESUME)
        process.kill()


def test_a_killed_process_lets_go_although_the_workers_that_it_forked_live_on(tmp_path):
    with holding(tmp_path, "import os, time; os.fork() or time.sleep(3)") as process:
        process.kill()
        process.wait()
        claim(tmp_path, RESUME)


def test_a_folder_with_a_run_is_refused_and_the_ways_on_are_named(used):
    before = names(used)
    text = (
        r"holds a run \(model_final.pth\): --resume goes on with it, --overwrite removes it, another OUTPUT_DIR keeps"
    )
    with pytest.raises(ConfigError, match=text):
        claim(used)
    assert names(used) == before


def test_a_run_that_cannot_be_resumed_is_told_apart(used):
    (used / "last_checkpoint").unlink()
    with pytest.raises(ConfigError, match="without last_checkpoint it cannot be resumed, --overwrite removes it"):
        claim(used)


@pytest.mark.parametrize("args", [RESUME, OVERWRITE])
def test_a_folder_with_a_run_may_be_resumed_or_overwritten(used, args):
    claim(used, args)


def test_claiming_changes_nothing_but_the_lock(used):
    before = {name: (used / name).read_bytes() for name in names(used)}
    claim(used, OVERWRITE)
    assert {name: (used / name).read_bytes() for name in names(used)} == before


def test_overwriting_removes_what_a_run_writes_and_nothing_else(used):
    begin(str(used), "A: 2", overwrite=True)
    assert names(used) == USERS | {"config.yaml", "run.lock"}
    assert (used / "config.yaml").read_text().endswith("\nA: 2")


def test_what_a_killed_run_left_half_written_is_removed(used):
    (used / "model_0000006.pth.0123abcd.partial").touch()
    begin(str(used), "A: 1", overwrite=False)
    assert not (used / "model_0000006.pth.0123abcd.partial").exists()
    assert names(used) >= USERS


@pytest.mark.parametrize("name", ["config.yaml", "results.json", "model_final.pth", "last_checkpoint", "student.yaml"])
@pytest.mark.parametrize("args", [NEW, OVERWRITE])
def test_a_users_own_file_of_a_runs_name_is_never_written_over(tmp_path, name, args):
    (tmp_path / name).touch()
    with pytest.raises(ConfigError, match=f"holds {name}, which no run of kd2 wrote there and a run would write over"):
        claim(tmp_path, args)
    assert names(tmp_path) == {name}


def test_a_resumed_run_does_not_write_over_a_users_config(tmp_path):
    tag_last_checkpoint(str(tmp_path / "model_0000002.pth"))
    (tmp_path / "config.yaml").touch()
    with pytest.raises(ConfigError, match="holds config.yaml, which no run of kd2 wrote there"):
        claim(tmp_path, RESUME)


@pytest.mark.parametrize(("most", "kept"), [(0, [2, 4, 6, 8]), (1, [8]), (3, [4, 6, 8])])
def test_the_newest_checkpoints_stay(tmp_path, most, kept):
    for number in (2, 4, 6, 8):
        keep({"iteration": number}, str(tmp_path / f"model_{number:07d}.pth"), most)
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == [f"model_{number:07d}.pth" for number in kept]


def test_the_final_the_best_and_a_users_checkpoint_do_not_count(used):
    keep({"iteration": 6}, str(used / "model_0000006.pth"), 1)
    assert {path.name for path in used.glob("*.pth")} == {
        "model_0000006.pth", "model_final.pth", "model_best.pth", "model_mine.pth",
    }  # fmt: skip


def test_the_newest_is_the_one_written_last_whatever_its_number(tmp_path):
    """A run that was resumed at an earlier checkpoint writes the later ones anew."""
    for number, seconds in ((2, 10), (4, 20)):
        keep({}, str(tmp_path / f"model_{number:07d}.pth"), 0)
        os.utime(tmp_path / f"model_{number:07d}.pth", (seconds, seconds))
    keep({}, str(tmp_path / "model_0000003.pth"), 1)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000003.pth"]


def test_the_last_checkpoint_becomes_the_final_one(tmp_path):
    keep({"iteration": 3}, str(tmp_path / "model_0000004.pth"), 0)
    keep_final(str(tmp_path / "model_0000004.pth"), str(tmp_path))
    assert torch.load(tmp_path / "model_final.pth", weights_only=True) == {"iteration": 3}
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "model_final.pth")


@pytest.mark.parametrize("name", ["../model_final.pth", "/etc/passwd", "", "a/b.pth"])
def test_a_tag_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "last_checkpoint").write_text(name)
    with pytest.raises(ConfigError, match="^--resume: .*last_checkpoint holds '.*', expected the name of a checkpoint"):
        resumable(str(tmp_path))


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(ConfigError, match="has no checkpoint to go on from; start without --resume"):
        resumable(str(tmp_path))


def test_a_new_run_has_no_last_checkpoint(tmp_path):
    assert last_checkpoint(str(tmp_path)) is None


def test_the_last_checkpoint_is_the_one_tagged_last(tmp_path):
    for name in ("b.pth", "a.pth"):
        tag_last_checkpoint(str(tmp_path / name))
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "a.pth")


def test_a_moved_run_still_finds_its_checkpoint(tmp_path):
    (tmp_path / "old").mkdir()
    tag_last_checkpoint(str(tmp_path / "old" / "a.pth"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert last_checkpoint(str(tmp_path / "new")) == str(tmp_path / "new" / "a.pth")


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


def overwriting(folder, *needed):
    with claimed(str(folder), Namespace(resume=False, overwrite=True), map(str, needed)):
        begin(str(folder), "SEED: 1\n", overwrite=True)


def test_a_log_that_no_run_wrote_is_not_removed(tmp_path):
    (tmp_path / "log.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds log.txt, which no run of kd2 wrote there"):
        overwriting(tmp_path)
    assert (tmp_path / "log.txt").read_text() == "mine"


def test_a_lock_alone_makes_no_files_the_runs(tmp_path):
    (tmp_path / "run.lock").touch()
    (tmp_path / "config.yaml").write_text("SEED: 7\n")
    with pytest.raises(ConfigError, match="holds config.yaml, which no run of kd2 wrote there"):
        overwriting(tmp_path)


def test_a_file_that_the_run_reads_is_not_removed(tmp_path):
    overwriting(tmp_path)
    (tmp_path / "model_final.pth").touch()
    with pytest.raises(ConfigError, match="--overwrite would remove .*model_final.pth, a file that this run reads"):
        overwriting(tmp_path, tmp_path / "model_final.pth")


def test_nothing_is_removed_where_a_folder_has_a_runs_name(tmp_path):
    overwriting(tmp_path)
    (tmp_path / "model_final.pth").touch()
    (tmp_path / "student.yaml").mkdir()
    with pytest.raises(ConfigError, match="student.yaml, a folder"):
        overwriting(tmp_path)
    assert (tmp_path / "model_final.pth").exists()


def test_the_scores_of_a_finished_run_go_when_it_goes_on(used):
    begin(str(used), "", overwrite=False)
    assert not (used / "results.json").exists() and (used / "model_final.pth").exists()
