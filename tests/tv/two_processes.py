"""What each of two processes does in test_tv_processes.py: train and resume, as two machines of one CPU each."""

import os
import shutil
import sys
from pathlib import Path

import lightning
import tiny
import torch

from kd2.bridges.tv import run


class Gradients(lightning.Callback):
    """Keeps the gradients of the adapters of every step, and the files of every batch."""

    def __init__(self):
        self.steps, self.files = [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.files += [os.path.basename(record["file_name"]) for record in batch.records]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.distiller.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def main(rank: int, config: str, port: str, folder: Path) -> None:
    """Train by ``config`` as one of two machines into out/, then from its checkpoint at 3 into resumed/."""
    machine = {"num_machines": 2, "machine_rank": rank, "dist_url": f"tcp://127.0.0.1:{port}"}
    seen = Gradients()
    results = run.train(run.setup(config, []), tiny.arguments(**machine), [seen])
    torch.save({"steps": seen.steps, "files": seen.files, "results": results}, folder / f"seen{rank}.pt")
    torch.distributed.barrier()
    if rank == 0:
        (folder / "resumed").mkdir()
        shutil.copy(folder / "out" / "model_0000003.ckpt", folder / "resumed")
        (folder / "resumed" / "last_checkpoint").write_text("model_0000003.ckpt")
    torch.distributed.barrier()
    cfg = run.setup(config, ["OUTPUT_DIR", str(folder / "resumed")], resume=True)
    run.train(cfg, tiny.arguments(**machine, resume=True))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
