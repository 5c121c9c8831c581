"""The critic of holistic distillation: its outputs, its size, and the spectral normalization of its weights."""

import pytest
import torch

from kd2.distill import ParameterGroupOverride
from kd2.networks.critic import Critic, SpectralConv

from ..helpers.whole import random_map


def critic() -> Critic:
    torch.manual_seed(0)
    return Critic(3, 2, "tanh", False, ParameterGroupOverride(0, 0))


def test_larger_maps_of_several_sizes_give_a_grid_of_outputs():
    net = critic()
    assert net(random_map(1, 3, 64, 64)).shape == (1, 1, 1, 1)
    assert net(random_map(1, 3, 65, 129)).shape == (1, 1, 1, 5)


def test_the_authors_critic_has_3_19_million_weights():
    net = Critic(19, 64, "batch_norm", False, ParameterGroupOverride(0, 0))
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(3.19e6, rel=2e-3)


def test_attention_starts_switched_off():
    assert all((attention.gamma == 0).all() for attention in critic().attentions)


def test_every_call_improves_the_estimate_of_the_largest_singular_value_in_eval_mode_too():
    torch.manual_seed(0)
    conv, x = SpectralConv(3, 8).eval(), random_map(1, 3, 8, 8)
    largest = torch.linalg.matrix_norm(conv.weight.flatten(1), 2)
    errors = []
    for _ in range(30):
        conv(x)
        errors.append((conv.u @ conv.weight.flatten(1) @ conv.v - largest).abs().item())
    assert errors[0] > errors[1] > errors[3] and errors[-1] < 1e-3 * largest


def test_a_later_call_leaves_the_gradient_of_an_earlier_one_alone():
    gradients = []
    for calls in (1, 3):
        torch.manual_seed(0)
        conv, x = SpectralConv(3, 8), random_map(1, 3, 8, 8)
        first = conv(x).square().sum()
        for _ in range(calls - 1):
            conv(x)
        first.backward()
        gradients.append(conv.weight.grad)
    assert torch.equal(*gradients)


def test_both_vectors_are_in_the_state_dict_and_are_not_trained():
    net = critic()
    assert {"convs.0.u", "convs.3.v"} <= net.state_dict().keys()
    assert not {"convs.0.u", "convs.3.v"} & dict(net.named_parameters()).keys()
