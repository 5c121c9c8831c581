"""What a model costs: parameters, operations, time for one image, bytes."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn
from torch.utils.benchmark import Timer


@dataclass(frozen=True)
class Cost:
    """The cost of a model.

    Attributes:
        parameters: their number.
        gflops: 10^9 multiply-adds for one image, by fvcore's counter (a multiply-add is one).
        cpu_ms, gpu_ms: median milliseconds for one image, pre- and postprocessing included; ``gpu_ms`` is None without
            a GPU.
        megabytes: 10^6 bytes of the weights.
    """

    parameters: int
    gflops: float
    cpu_ms: float
    gpu_ms: float | None
    megabytes: float


def cost(model: nn.Module, run: Callable[[torch.device], Any], seconds: float = 1.0) -> Cost:
    """The cost of a model that is in eval mode on the CPU; where there is a GPU it is moved there and timed again.

    Args:
        run: runs it on one image, which is on the device that is given.
        seconds: to measure time for, on each device.
    """
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    with torch.no_grad():
        gflops, cpu_ms = _gflops(model, lambda: run(cpu)), _milliseconds(lambda: run(cpu), seconds)
        gpu_ms = None
        if torch.cuda.is_available():
            model.to(gpu)
            gpu_ms = _milliseconds(lambda: run(gpu), seconds)
    weights = [*model.state_dict().values()]
    megabytes = sum(x.numel() * x.element_size() for x in weights) / 1e6
    return Cost(sum(p.numel() for p in model.parameters()), gflops, cpu_ms, gpu_ms, megabytes)


class _Running(nn.Module):
    """A model under a counter that traces: its output as a tuple of tensors."""

    def __init__(self, model: nn.Module, run: Callable[[], Any]):
        super().__init__()
        self.model, self.run = model, run

    def forward(self, _: Tensor) -> tuple[Tensor, ...]:
        """The tensors of one run."""
        return tuple(_tensors(self.run()))


def _gflops(model: nn.Module, run: Callable[[], Any]) -> float:
    counter = FlopCountAnalysis(_Running(model, run), torch.zeros(1))
    counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of every size that it takes for a constant
        return counter.total() / 1e9


def _tensors(output: Any) -> list[Tensor]:
    """Every tensor in nested lists, dicts and Detectron2's instances."""
    if isinstance(output, Tensor):
        return [output]
    if hasattr(output, "get_fields"):
        output = output.get_fields()
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (list, tuple)):
        return [x for part in output for x in _tensors(part)]
    return [output.tensor] if isinstance(getattr(output, "tensor", None), Tensor) else []


def _milliseconds(run: Callable[[], Any], seconds: float) -> float:
    timer = Timer("run()", globals={"run": run}, num_threads=torch.get_num_threads())
    return 1000 * timer.blocked_autorange(min_run_time=seconds).median
