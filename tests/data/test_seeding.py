"""Random draws by key."""

import random

import numpy as np
import pytest
import torch

from kd2.data.seeding import random_states, restore_random_states, seeded


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def drawn(*key: int) -> tuple[float, float, float]:
    with seeded(*key):
        return draws()


def test_equal_keys_draw_equal_numbers():
    assert drawn(1, 2) == drawn(1, 2)


@pytest.mark.parametrize("other", [(2, 1), (1, 3), (1,), (0, 1, 2)])
def test_other_keys_draw_other_numbers_from_every_library(other):
    assert all(a != b for a, b in zip(drawn(1, 2), drawn(*other)))


def test_the_states_outside_go_on_as_if_nothing_had_been_drawn():
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    expected = draws()
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    drawn(1, 2)
    assert draws() == expected


def test_the_states_are_restored_after_an_error():
    torch.manual_seed(0)
    expected = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), expected)


def test_only_the_hosts_generator_of_torch_is_seeded(monkeypatch):
    """torch.manual_seed would also reset the generators of the GPUs, which the block does not restore."""
    monkeypatch.setattr(torch, "manual_seed", None)
    drawn(1)


def test_restored_states_repeat_the_draws():
    states = random_states()
    expected = torch.rand(3)
    restore_random_states(states)
    assert torch.equal(torch.rand(3), expected)


def test_states_of_devices_that_are_not_here_are_ignored():
    many = random_states() | {"cuda": [torch.get_rng_state()] * (torch.cuda.device_count() + 1)}
    if not torch.cuda.is_available():
        restore_random_states(many)
