"""The moving average of a network's weights and statistics."""

import pytest
import torch
from torch import nn

from kd2.distill import WeightAverage, average_of


def network() -> nn.Module:
    """A linear layer with a norm, and a table of whole numbers."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    model.register_buffer("table", torch.tensor([0, 2047]))
    return model


def step(model: nn.Module, value: float) -> None:
    """What an optimizer and a batch may leave behind."""
    with torch.no_grad():
        model[0].weight.fill_(value)
        model[1].running_mean.fill_(10 * value)
        model[1].num_batches_tracked += 1


@pytest.fixture
def averaged():
    """The average, decay 0.75, of steps to 1, 2 and 4."""
    model = network()
    average = WeightAverage(model, 0.75, warmup=False)
    for value in (1.0, 2.0, 4.0):
        step(model, value)
        average.update()
    return average


def test_the_first_step_is_copied_and_later_ones_move_the_average(averaged):
    assert averaged.network[0].weight.item() == 0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4


def test_statistics_are_averaged_too(averaged):
    assert averaged.network[1].running_mean.item() == 10 * (0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 4)


def test_counters_and_tables_are_those_of_the_network(averaged):
    assert averaged.network[1].num_batches_tracked == 3
    assert averaged.network.table.tolist() == [0, 2047]


class Gathered(nn.Module):
    """Keeps what it makes of its weight as long as it is in eval mode, as LeViT its attention biases."""

    def __init__(self):
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.zeros(1)), None

    def train(self, mode: bool = True):
        self.kept = None if mode else self.kept
        return super().train(mode)

    def forward(self) -> torch.Tensor:
        self.kept = 2 * self.weight if self.kept is None else self.kept
        return self.kept


def test_what_a_network_keeps_for_eval_mode_follows_the_average():
    model = Gathered()
    average = WeightAverage(model, 0.0, warmup=False)
    for value in (1.0, 3.0):
        model.weight.data.fill_(value)
        average.update()
        assert average.network().item() == 2 * value and not average.network.training


def test_the_average_neither_trains_nor_needs_gradients(averaged):
    assert not averaged.network.training
    assert not any(p.requires_grad for p in averaged.network.parameters())


@pytest.mark.parametrize(("done", "decay"), [(1, 1 - 2 ** (-2 / 3)), (7, 0.75), (999, 0.9)])
def test_the_warm_up_lets_the_average_forget_its_start(done, decay):
    assert WeightAverage(network(), 0.9, warmup=True).decay_at(done) == pytest.approx(decay)


def test_a_restored_average_goes_on_as_if_it_had_not_stopped(averaged):
    other = network()
    again = WeightAverage(other, 0.75, warmup=False)
    again.network.load_state_dict(averaged.network.state_dict())
    again.resume(3)
    for average, model in ((averaged, averaged._source), (again, other)):
        step(model, 8.0)
        average.update()
    assert torch.equal(again.network[0].weight, averaged.network[0].weight)


def test_a_table_is_not_rounded_away():
    """0.9999 x 2047 + 0.0001 x 2047, cut to a whole number, is 2046."""
    model = network()
    average = WeightAverage(model, 0.9999, warmup=False)
    for _ in range(3):
        average.update()
    assert average.network.table.tolist() == [0, 2047]


def test_there_is_none_unless_it_is_enabled():
    options = type("Options", (), {"ENABLED": False, "DECAY": 0.9, "WARMUP": True})
    assert average_of(network(), options) is None
