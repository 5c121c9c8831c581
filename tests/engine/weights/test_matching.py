"""Checkpoint files: matched by name and shape."""

import pytest
import torch
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.weights.matching import Match, load_state

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def model() -> nn.Linear:
    return nn.Linear(3, 2)


def test_an_exact_match_is_100_percent():
    match = Match(model(), STATE)
    assert (match.matched, match.text()) == (1.0, "100.0 % of the weights matched")


def test_the_matched_part_counts_elements():
    assert Match(model(), {"weight": STATE["weight"]}).matched == 6 / 8


def test_a_batch_norms_counter_does_not_count():
    norm = nn.BatchNorm2d(2)
    state = {k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"}
    assert Match(norm, state).matched == 1


def test_the_text_lists_what_differs():
    match = Match(model(), {"weight": torch.ones(5, 3), "other": torch.ones(1)})
    assert match.text() == (
        "0.0 % of the weights matched; 1 missing (bias); 1 unexpected (other); "
        "1 other shape (weight (5, 3) instead of (2, 3))"
    )


def test_the_text_lists_at_most_three_names():
    match = Match(model(), STATE | {f"more{i}": torch.ones(1) for i in range(4)})
    assert match.text().endswith("4 unexpected (more0, more1, more2, ...)")


@pytest.mark.parametrize("state", [{"weight": STATE["weight"]}, STATE | {"more": torch.ones(1)}])
def test_less_than_an_exact_match_is_refused(state):
    with pytest.raises(ConfigError, match="^KEY: a.pth does not fit the model: "):
        load_state(model(), state, "a.pth", "KEY", partial=False)


@pytest.mark.parametrize("state", [{"weight": STATE["weight"]}, STATE | {"more": torch.ones(1)}])
def test_when_allowed_what_fits_is_loaded(state):
    net = model()
    load_state(net, state, "a.pth", "KEY", partial=True)
    assert torch.equal(net.weight, STATE["weight"])


@pytest.mark.parametrize(("kind", "text"), [(torch.int64, "torch.int64 instead of torch.float32")])
def test_whole_numbers_are_no_weights_of_a_model_of_floats(kind, text):
    with pytest.raises(ConfigError, match=rf"2 other type \(weight {text}, bias"):
        load_state(model(), {k: v.to(kind) for k, v in STATE.items()}, "a.pth", "KEY", partial=False)


def test_a_refused_state_leaves_the_model_unchanged():
    net = model()
    before = net.weight.clone()
    with pytest.raises(ConfigError):
        load_state(net, {"weight": STATE["weight"]}, "a.pth", "KEY", partial=False)
    assert torch.equal(net.weight, before)
