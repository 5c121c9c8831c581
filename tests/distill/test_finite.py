"""The monitor for losses that are not finite."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from kd2.distill import NaNMonitor, NonFiniteLoss

NAN, INF = float("nan"), float("inf")


def watched(*steps: dict[str, float]) -> NaNMonitor:
    monitor = NaNMonitor()
    for iteration, losses in enumerate(steps):
        monitor.see({name: torch.tensor(value) for name, value in losses.items()}, iteration)
    return monitor


class NoReadout(TorchDispatchMode):
    """Fails when a tensor's value is asked for, which on a GPU waits for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default, "read a value back"
        return function(*args, **(kwargs or {}))


def test_finite_losses_pass():
    assert watched({"loss": 1.0}, {"loss": 2.0}).check() is None


def test_nothing_seen_passes():
    assert NaNMonitor().check() is None


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_the_error_names_iteration_and_loss(bad):
    with pytest.raises(NonFiniteLoss, match="^loss_b became NaN or infinite at iteration 1; the last"):
        watched({"loss_a": 1.0, "loss_b": 1.0}, {"loss_a": 1.0, "loss_b": bad}).check()


def test_the_first_bad_iteration_is_kept():
    with pytest.raises(NonFiniteLoss, match="^loss_a became NaN or infinite at iteration 0"):
        watched({"loss_a": NAN, "loss_b": 0.0}, {"loss_a": NAN, "loss_b": NAN}).check()


def test_losses_that_fail_together_are_all_named():
    with pytest.raises(NonFiniteLoss, match="^loss_a, loss_b became"):
        watched({"loss_a": NAN, "loss_b": INF}).check()


def test_a_loss_that_recovers_is_still_reported():
    with pytest.raises(NonFiniteLoss, match="iteration 0"):
        watched({"loss": NAN}, {"loss": 1.0}).check()


def test_seeing_a_loss_never_reads_it_back():
    with NoReadout():
        watched({"loss": 1.0}, {"loss": NAN})


def test_a_readout_would_be_noticed():
    with NoReadout(), pytest.raises(AssertionError, match="read a value back"):
        torch.ones(()).item()
