"""What a training step costs each GPU and sends the others, counted and not timed."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step import Step
from kd2.distill import Distiller

HEADER = ["", "bytes all-reduced", "bytes of weights", "GFLOP an image", "bytes kept an image"]


def scaling_rows(step: Step) -> list[list[Any]]:
    """Row by row: what it is; the bytes of gradient that a step all-reduces; the bytes of weights and buffers; the
    operations (a multiply-add is two) and the bytes that autograd keeps for the backward pass, both for an image.

    The bytes all-reduced are those of the buckets that DistributedDataParallel hands over in a step of one process. The
    second row has the teacher's forward pass in its operations; the third one has it alone.
    """
    distiller, images = step.distiller, len(step.distiller.batch_info(step.batch).image_sizes)
    alone = Distiller(distiller.student, run_student=distiller.run_student).train()
    teacher = distiller.teacher
    assert teacher is not None, "a dry run has a loss that counts"
    with FlopCounterMode(display=False) as counter:
        distiller.teacher_features(step.batch)
    weights = [_bytes(distiller.student), _bytes(distiller.student) + _bytes(distiller.adapters)]
    with _one_process():
        costs = [_costs(model, step.batch, images) for model in (alone, distiller)]
    rows = [[name, sent, own, *rest] for name, own, (sent, *rest) in zip(
        ("student alone", "student and adapters"), weights, costs, strict=True
    )]  # fmt: skip
    return [*rows, ["teacher", 0, _bytes(teacher.model), counter.get_total_flops() / images / 1e9, 0]]


def _costs(model: Distiller, batch: Any, images: int) -> tuple[int, float, int]:
    """Bytes all-reduced, GFLOP an image and bytes kept an image of a forward and backward pass."""
    sent, kept = [], {}

    def count(_state: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
        sent.append(bucket.buffer().nbytes)
        done: torch.futures.Future[Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def keep(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    parallel = DistributedDataParallel(model, broadcast_buffers=False)
    parallel.register_comm_hook(None, count)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            total = sum(parallel(batch).values())
        total.backward()
    model.zero_grad()
    activations = sum(size for place, size in kept.items() if place not in weights)
    return sum(sent), counter.get_total_flops() / images / 1e9, activations // images


def _bytes(model: torch.nn.Module) -> int:
    return sum(x.nbytes for x in (*model.parameters(), *model.buffers()))


@contextlib.contextmanager
def _one_process() -> Iterator[None]:
    """A process group of this process alone."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()
