"""Time and extra memory of a call."""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Measurement, Timer

_MIB = 1 << 20


def median_ms(calls: Sequence[Callable[[], Any]], threads: int, repeats: int = 10) -> list[float]:
    """Median milliseconds of each call over at least ``repeats`` measurements.

    The calls take turns, so a change of the machine's load meets all of them alike.
    """
    timers = [Timer("call()", globals={"call": call}, num_threads=threads) for call in calls]
    blocks: list[list[Measurement]] = [[] for _ in calls]
    for _ in range(repeats):
        for timer, measured in zip(timers, blocks, strict=True):
            measured.append(timer.blocked_autorange(min_run_time=0.01))
    return [Measurement.merge(measured)[0].median * 1e3 for measured in blocks]


def peak_mib(call: Callable[[], Any], device: torch.device) -> float:
    """Most memory that the call holds at once beyond what was held before it, in MiB, its results included.

    On CUDA this is the allocator's own peak. On the CPU it is the peak of the running sum over PyTorch's allocations
    and frees during the call, as the profiler records them; scratch memory inside vendor libraries is not in it.
    """
    call()  # whatever is allocated once and kept
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / _MIB
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    return _peak_of_trace(recorded) / _MIB


def saved_mib(call: Callable[[], Any]) -> float:
    """Memory that autograd keeps for the backward pass of what ``call`` computes, in MiB; a storage counts once."""
    storages: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        call()
    return sum(storages.values()) / _MIB


@contextlib.contextmanager
def without_denormals() -> Iterator[None]:
    """Numbers below the normal range are flushed to zero on the CPU."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def _peak_of_trace(recorded: profile) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        recorded.export_chrome_trace(str(file))
        events = json.loads(file.read_text())["traceEvents"]
    steps = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    held = peak = 0
    for _, step in steps:
        held += step
        peak = max(peak, held)
    return peak
