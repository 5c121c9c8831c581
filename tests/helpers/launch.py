"""Children of a test: the command for training, killed or not, and the two processes of two_processes.py."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """For a child with one thread, as in this process: sums then have the same order."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def train_net(*words: str) -> subprocess.Popen:
    """Start ``tools/train_net.py *words``."""
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *words]
    return subprocess.Popen(
        command, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    )


def torchrun(*words: str) -> subprocess.CompletedProcess:
    """Run ``torchrun --nproc_per_node 2 tools/train_net.py *words``."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, str(ROOT / "tools" / "train_net.py"), *words],
        env=environment(), text=True, capture_output=True, cwd=ROOT, timeout=300,
    )  # fmt: skip


def srun(*words: str) -> list[int]:
    """Run ``tools/train_net.py *words`` in two processes with the variables of ``srun --ntasks=2``; the exit codes."""
    step = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "localhost"}
    step |= {"SLURM_NODEID": "0", "MASTER_PORT": free_port()}
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *words]
    processes = [
        subprocess.Popen(
            command, env=environment() | step | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT,
        )
        for task in range(2)
    ]  # fmt: skip
    return [process.wait(timeout=300) for process in processes]


def free_port() -> str:
    """A port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def killed(config: str, output: Path) -> int:
    """Train without end into ``output``, kill the run behind its first checkpoint; returns the steps of its last."""
    process = train_net("--config-file", config, "SOLVER.MAX_ITER", "1000000", "OUTPUT_DIR", str(output))
    try:
        while not (output / "last_checkpoint").exists():
            if process.poll() is not None:
                raise AssertionError(f"the run ended by itself: {process.communicate()[1]}")
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    return int((output / "last_checkpoint").read_text().removeprefix("model_").removesuffix(".pth"))


def in_two_processes(config: str) -> list[dict]:
    """Train by ``config`` in two processes, write into its folder, and return what each process saw."""
    port, folder = free_port(), Path(config).parent
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.two_processes", str(rank), config, port, str(folder)],
            env=environment(),
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(errors)
    return [torch.load(folder / f"seen{rank}.pt", weights_only=True) for rank in range(2)]
