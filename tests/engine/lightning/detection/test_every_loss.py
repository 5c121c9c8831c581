"""Every type of loss at once on a torchvision detector."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from torch.profiler import profile

from kd2.losses.registry import loss_types

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture
def build(tmp_path, data, teacher):
    """The distiller of a config with every loss and options over it, and its first batch."""

    def build_with(*options: str):
        config = tiny.write_config(tmp_path, data, tiny.with_every_loss(teacher))
        return runs.distiller(config, *options), runs.first_batch(config, *options)

    return build_with


# DKD asks for one label an image, which a detector's batch has not; a RetinaNet samples no proposals.
OTHERS = ["dkd", "roi_kd"]


def test_no_type_of_loss_is_missing_here():
    assert sorted([*tiny.EVERY_LOSS, *OTHERS]) == loss_types()


def test_every_loss_is_finite_and_one_backward_reaches_all_adapters(build):
    distiller, batch = build()
    losses = distiller(batch)
    assert all(loss.dim() == 0 and loss.isfinite() for loss in losses.values())
    assert {name for name in distiller.losses if not any(key.startswith(f"loss_{name}") for key in losses)} == set()
    sum(losses.values()).backward()
    assert [name for name, p in distiller.losses.named_parameters() if p.grad is None] == []


def readouts(distiller, batch) -> int:
    """How often the second training step reads a value back, which on a GPU waits for it; the first one checks more."""

    def step():
        sum(distiller(batch).values()).backward()

    step()
    with profile() as recorded:
        step()
    return sum(event.count for event in recorded.key_averages() if event.key == "aten::_local_scalar_dense")


def test_a_step_reads_no_more_values_back_than_plain_training(build):
    distilled, plain = readouts(*build()), readouts(*build("KD.LOSSES", "{}"))
    assert 0 < distilled <= plain


def test_a_readout_would_be_counted(build):
    distiller, batch = build()
    before = readouts(distiller, batch)
    distiller.losses["mimic"].register_forward_hook(lambda _module, _inputs, loss: loss * bool(loss > 0))
    assert readouts(distiller, batch) == before + 1
