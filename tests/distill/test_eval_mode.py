"""A look at a model in eval mode that leaves no trace."""

import pytest
import torch

from kd2.distill import eval_mode

from ..helpers.toys import Toy, distiller


def test_the_probe_leaves_batch_norm_and_modes_as_they_were():
    torch.manual_seed(0)
    fresh, seen = Toy(4), distiller({}).student
    assert all(torch.equal(value, seen.state_dict()[name]) for name, value in fresh.state_dict().items())
    assert all(m.training for m in seen.modules())


def test_eval_mode_gives_back_mixed_modes_and_the_random_state():
    model = Toy(4).train()
    model.backbone.stem[1].eval()
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()
    with eval_mode(model):
        torch.rand(())
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_eval_mode_gives_back_modes_after_an_error():
    model = Toy(4).train()
    with pytest.raises(KeyError), eval_mode(model):
        raise KeyError
    assert all(m.training for m in model.modules())
