"""Two processes: one DistributedDataParallel around the whole Distiller."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
import torch.multiprocessing
from detectron2.utils import comm
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from kd2.engine.detectron2.data import train_loader

from ...helpers.d2_tiny import distiller_of, load_config, write_pair


def work(rank: int, config: str, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    comm.create_local_process_group(2)
    cfg = load_config(config)
    torch.manual_seed(cfg.SEED + rank)
    model = DistributedDataParallel(distiller_of(cfg), broadcast_buffers=False)
    batch = next(iter(train_loader(cfg)))
    sum(model(batch).values()).backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    torch.save({"images": [x["image_id"] for x in batch], "gradients": gradients}, f"{folder}/{rank}.pth")
    distributed.destroy_process_group()


def test_gradients_of_student_and_adapters_are_equal_on_both_ranks(data, tmp_path):
    config = write_pair(tmp_path, data, {"SOLVER": {"IMS_PER_BATCH": 4}})
    torch.multiprocessing.spawn(work, (config, str(tmp_path)), nprocs=2)
    first, second = [torch.load(tmp_path / f"{rank}.pth") for rank in range(2)]
    assert not set(first["images"]) & set(second["images"])
    assert any(name.startswith("losses.imitation") for name in first["gradients"])
    for name, gradient in first["gradients"].items():
        assert torch.equal(gradient, second["gradients"][name]), name
