"""Two processes: one DistributedDataParallel around the whole Distiller."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from detectron2.utils import comm
from torch.nn.parallel import DistributedDataParallel

from kd2.engine.detectron2.data import train_loader

from ...helpers.d2_tiny import distiller_of, load_config, write_pair
from ...helpers.ranks import in_two_ranks


def work(rank: int, config: str) -> dict:
    comm.create_local_process_group(2)
    cfg = load_config(config)
    torch.manual_seed(cfg.SEED + rank)
    model = DistributedDataParallel(distiller_of(cfg), broadcast_buffers=False)
    batch = next(iter(train_loader(cfg)))
    sum(model(batch).values()).backward()
    gradients = {name: p.grad for name, p in model.module.named_parameters()}
    return {"images": [x["image_id"] for x in batch], "gradients": gradients}


def test_gradients_of_student_and_adapters_are_equal_on_both_ranks(data, tmp_path):
    config = write_pair(tmp_path, data, {"SOLVER": {"IMS_PER_BATCH": 4}})
    first, second = in_two_ranks(work, tmp_path, config)
    assert not set(first["images"]) & set(second["images"])
    assert any(name.startswith("losses.imitation") for name in first["gradients"])
    for name, gradient in first["gradients"].items():
        assert torch.equal(gradient, second["gradients"][name]), name
