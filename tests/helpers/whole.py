"""What is asked of every loss that compares whole maps, for the tests of each of them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import profile

from benchmarks.measure import peak_mib
from kd2.distill import BatchInfo, FeatureSpec

LOW = [torch.bfloat16, torch.float16]
# The largest map is slow on a CPU; the small one already sums to more than float16 can hold.
SIZES = [(40, 56), pytest.param((200, 336), marks=pytest.mark.slow)]


def spec(channels: int = 6, size: tuple[int, int] = (8, 12), stride: float = 8) -> list[FeatureSpec]:
    return [FeatureSpec(channels, size, (stride, stride))]


def random_map(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batch_info(images: int = 2, size: tuple[int, int] = (64, 96), **fields) -> BatchInfo:
    return BatchInfo([size] * images, size, [torch.tensor([[8.0, 8, 40, 30], [20, 16, 28, 30]])] * images, **fields)


def value(loss: nn.Module, student: Tensor, teacher: Tensor, info: BatchInfo | None = None) -> Tensor:
    """The loss's parts added up."""
    parts = loss([student], [teacher], info or batch_info(len(student)))
    return sum(parts.values()) if isinstance(parts, dict) else parts


def low_precision_error(loss: nn.Module, size: tuple[int, int], dtype: torch.dtype) -> float:
    """Relative error of the value under autocast on unit-normal maps 2 x 256 x ``size``; gradients must be finite."""
    student, teacher = random_map(2, 256, *size).requires_grad_(), random_map(2, 256, *size, seed=1)
    info = batch_info(2, (8 * size[0], 8 * size[1]))
    exact = value(loss, student, teacher, info).item()
    with torch.autocast("cpu", dtype=dtype):
        found = value(loss, student, teacher, info)
    assert found.dtype == torch.float32
    found.backward()
    assert student.grad.isfinite().all()
    return abs(found.item() - exact) / exact


def same_for_any_strides(loss: nn.Module, channels: int = 6) -> None:
    """Value and student gradient of NHWC views, and of tokens behind a class token, equal those of NCHW maps."""

    def tokens(x: Tensor) -> Tensor:
        padded = torch.cat([torch.zeros(len(x), 1, channels), x.flatten(2).transpose(1, 2)], 1)
        return padded[:, 1:].transpose(1, 2).unflatten(2, x.shape[2:])

    results = []
    for view in (lambda x: x, lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), tokens):
        student = view(random_map(2, channels, 8, 12)).detach().requires_grad_()
        found = value(loss, student, view(random_map(2, channels, 8, 12, seed=1)))
        results.append((found, torch.autograd.grad(found, student)[0]))
    for found in results[1:]:
        torch.testing.assert_close(found, results[0])


def never_reads_the_device(loss: nn.Module, channels: int = 6) -> None:
    """No step of forward or backward waits for a value, given boxes on the host."""
    student, teacher = random_map(2, channels, 8, 12).requires_grad_(), random_map(2, channels, 8, 12, seed=1)
    operations = operations_of(lambda: value(loss, student, teacher).backward())
    assert operations
    assert "aten::_local_scalar_dense" not in operations


def keeps_one_map(loss: nn.Module) -> None:
    """Of the size of its 4 x 19 x 128 x 128 logits a loss builds what it keeps and the gradient, nothing else."""
    student, teacher = random_map(4, 19, 128, 128).requires_grad_(), random_map(4, 19, 128, 128, seed=1)
    info = batch_info(4, (1024, 1024))
    peak = peak_mib(lambda: torch.autograd.grad(value(loss, student, teacher, info), student), torch.device("cpu"))
    assert peak < 2.5 * student.nbytes / 2**20


def operations_of(call: Callable[[], object]) -> set[str]:
    with profile() as recorded:
        call()
    return {event.key for event in recorded.key_averages()}
