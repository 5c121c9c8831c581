"""What a detector costs: parameters, floating point operations, time on the CPU."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Cost:
    """Parameters; GFLOPs of one image (a multiply-add counts as two); median milliseconds for one image on the CPU."""

    parameters: int
    gflops: float
    latency_ms: float


@torch.no_grad()
def cost(model: nn.Module, images: list[Tensor], seconds: float = 1.0) -> Cost:
    """The cost of ``model`` (in eval mode, on the CPU) on float images (3, H, W), its pre- and postprocessing included.

    Args:
        seconds: time to measure for; operations are those of the first image.
    """
    with FlopCounterMode(display=False) as counter:
        model(images[:1])
    timer = Timer(
        "for image in images: model([image])",
        globals={"model": model, "images": images},
        num_threads=torch.get_num_threads(),
    )
    each = timer.blocked_autorange(min_run_time=seconds).median / len(images)
    parameters = sum(p.numel() for p in model.parameters())
    return Cost(parameters, counter.get_total_flops() / 1e9, 1000 * each)
