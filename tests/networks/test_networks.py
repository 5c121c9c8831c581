"""PSPNet's heads and ESPNet: sizes of their maps, taps, parameters."""

import pytest
import torch
from torch import nn

from kd2.networks.espnet import ESP, ESPDecoder, ESPEncoder
from kd2.networks.pspnet import AuxiliaryHead, PSPHead, PyramidPooling, bin_averages


def parameters(*models: nn.Module) -> int:
    return sum(p.numel() for model in models for p in model.parameters())


def test_espnet_c_has_the_papers_parameters():
    assert parameters(ESPEncoder(2, 8), nn.Conv2d(256, 19, 1, bias=False)) == 349_193  # 0.3492 M


def test_espnet_has_the_papers_parameters():
    assert parameters(ESPEncoder(2, 8), ESPDecoder(19)) == 363_462  # 0.3635 M


def test_maps_of_the_encoder_are_rounded_up():
    maps = ESPEncoder(0, 1).eval()(torch.zeros(2, 3, 37, 50))
    assert {name: tuple(x.shape) for name, x in maps.items()} == {
        "level1": (2, 19, 19, 25),
        "level2": (2, 131, 10, 13),
        "out": (2, 256, 5, 7),
    }


def test_the_decoder_comes_back_to_the_image_size_whether_or_not_8_divides_it():
    maps = ESPEncoder(0, 0).eval()(torch.zeros(1, 3, 36, 50))
    assert ESPDecoder(5).eval()(maps).shape == (1, 5, 36, 50)


def test_branches_are_fused_one_after_the_other():
    block = ESP(10, 10).eval()
    block.finish = nn.Identity()
    x = torch.randn(1, 10, 6, 6)
    branches = [branch(block.reduce(x)) for branch in block.branches]
    assert torch.allclose(block(x)[:, -2:], sum(branches[1:]), atol=1e-6)


def test_pyramid_pooling_joins_the_map_with_its_averages():
    pooling = PyramidPooling(4, 2, norm=nn.Identity)
    x = torch.rand(1, 4, 6, 6)
    out = pooling(x)
    assert out.shape == (1, 4 + 4 * 2, 6, 6) and torch.equal(out[:, :4], x)
    mean = torch.relu(pooling.reduce[0][0](x.mean((2, 3), keepdim=True)))
    assert torch.allclose(out[:, 4:6], mean.expand(1, 2, 6, 6), atol=1e-6)


def test_the_bottleneck_is_the_input_of_the_classifier_dropout_included():
    head, seen = PSPHead(8, 3, 4).train(), []
    head.predictor.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    head.bottleneck.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    assert head(torch.randn(2, 8, 7, 7)).shape == (2, 3, 7, 7)
    assert seen[0] is seen[1] and seen[0].shape == (2, 4, 7, 7)


@pytest.mark.parametrize("head", [PSPHead(8, 3, 4), AuxiliaryHead(8, 3, 4)], ids=["main", "auxiliary"])
def test_a_head_keeps_the_size_of_its_map(head):
    assert head.eval()(torch.zeros(2, 8, 5, 9)).shape == (2, 3, 5, 9)


def test_a_norm_of_choice():
    head = PSPHead(8, 3, 4, norm=lambda channels: nn.GroupNorm(2, channels))
    assert head(torch.zeros(1, 8, 5, 9)).shape == (1, 3, 5, 9)
    assert not [m for m in head.modules() if isinstance(m, nn.BatchNorm2d)]


@pytest.mark.parametrize("size", [(5, 7), (12, 8), (2, 3)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_averages_of_bins_are_those_of_adaptive_pooling(size, bins):
    maps = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bin_averages(maps, bins), torch.nn.functional.adaptive_avg_pool2d(maps, bins))
