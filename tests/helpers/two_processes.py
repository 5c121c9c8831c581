"""What each process does for launch.py: train and resume, as two machines of one CPU each."""

import os
import shutil
import sys
from pathlib import Path

import lightning
import torch

from .lightning_runs import train


class Witness(lightning.Callback):
    """Keeps gradients of every step, files (a classifier: pixels) of every batch, the network first scored."""

    def __init__(self):
        self.steps, self.files, self.pixels, self.scored = [], [], [], {}

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.files += [os.path.basename(record["file_name"]) for record in getattr(batch, "records", [])]
        if not self.files:
            self.pixels.append(batch.images)

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        if not self.scored:
            self.scored = {name: x.clone() for name, x in pl_module.named_buffers() if ".losses." not in name}
            if pl_module.average is not None:
                of_average = pl_module.average.network.named_buffers()
                self.scored |= {f"average.{name}": x.clone() for name, x in of_average}

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.distiller.named_parameters()
        self.steps.append({name: p.grad.clone() for name, p in named if p.grad is not None})


def main(rank: int, config: str, port: str, folder: Path) -> None:
    """Train by ``config`` as one of two machines into out/, then from its checkpoint at 3 into resumed/."""
    machine = {"num_machines": 2, "machine_rank": rank, "dist_url": f"tcp://127.0.0.1:{port}"}
    witness = Witness()
    results = train(config, callbacks=(witness,), **machine)
    kept = {name: getattr(witness, name) for name in ("steps", "files", "pixels", "scored")}
    torch.save(kept | {"results": results}, folder / f"seen{rank}.pt")
    torch.distributed.barrier()
    if rank == 0:
        (folder / "resumed").mkdir()
        shutil.copy(folder / "out" / "model_0000003.pth", folder / "resumed")
        (folder / "resumed" / "last_checkpoint").write_text("model_0000003.pth")
    torch.distributed.barrier()
    train(config, "OUTPUT_DIR", str(folder / "resumed"), resume=True, **machine)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4]))
