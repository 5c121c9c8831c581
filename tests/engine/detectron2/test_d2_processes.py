"""A run in two processes that ends before its time: one line, one exit code, no process left."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from kd2.engine.detectron2.run import launched
from kd2.runs.endings import Fault

from ...helpers.launch import ROOT, environment

ARGS = argparse.Namespace(num_machines=1, machine_rank=0, dist_url="auto")
PROGRAM = """
import sys
from detectron2.engine import defaults
from torch.nn.parallel import DistributedDataParallel
from kd2.cli import guarded
from kd2.engine.detectron2 import run
from kd2.engine import ONE_PROCESS
from kd2.config import read

# Detectron2's own names a GPU.
defaults.create_ddp_model = lambda model, **_: DistributedDataParallel(model, broadcast_buffers=False)
if __name__ == "__main__":
    run._processes = lambda cfg, args: 2  # on the CPU
    words = sys.argv[2:]
    sys.exit(guarded(lambda: bool(run.run(read(sys.argv[1], words), sys.argv[1], ONE_PROCESS)) and 0))
"""


def broken(_rank_file: str) -> None:
    from detectron2.utils import comm

    if comm.get_rank() == 1:
        raise KeyError("x")
    comm.synchronize()


def lost(_rank_file: str) -> None:
    from detectron2.utils import comm

    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()


def test_a_fault_in_a_started_process_is_one_line_and_a_file():
    with pytest.raises(Fault) as caught:
        launched(broken, 2, ARGS, ("",))
    assert str(caught.value).startswith("KeyError: 'x'; this is a fault, its traceback is in /")
    assert 'raise KeyError("x")' in Path(str(caught.value).split()[-1]).read_text()


def test_a_started_process_that_is_lost_is_told_in_one_line():
    """By the one that started it, or by one that waits for it."""
    text = r"^(a|another) process of the run was lost \([^\n]*\); the last checkpoint is kept$"
    with pytest.raises(OSError, match=text):
        launched(lost, 2, ARGS, ("",))


@pytest.mark.slow
def test_a_signal_ends_all_processes(retinanets, tmp_path):
    """It goes to the first one alone, as a scheduler sends it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "100000"]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), retinanets, *words],
        env=environment(), cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    tag, deadline = tmp_path / "out" / "last_checkpoint", time.time() + 120
    while not tag.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.05)
    started = children(process.pid)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 143, said
    deadline = time.time() + 20  # Python's own helper process ends a moment later
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.time() < deadline:
        time.sleep(0.05)
    assert len(started) >= 2 and not any(Path(f"/proc/{pid}").exists() for pid in started)
    assert f"interrupted by SIGTERM: the student is in {tmp_path}/out/model_" in said.splitlines()[-1]
    assert "Traceback" not in said and "error:" not in said


def children(parent: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended in the meantime
            if int(stat.read_text().rpartition(") ")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found
