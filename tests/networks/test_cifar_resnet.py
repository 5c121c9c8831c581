"""The CIFAR networks: counts, names, shapes and shortcuts of the paper's table and of option A."""

import pytest
import torch

from kd2.networks.cifar_resnet import Block, CifarResNet, shortcut

COUNTS = [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)]


@pytest.mark.parametrize("depth, parameters", COUNTS)
def test_the_number_of_parameters(depth, parameters):
    """The paper's table 6 rounds them to 0.27, 0.46, 0.66, 0.85 and 1.7 million."""
    with torch.device("meta"):
        assert sum(p.numel() for p in CifarResNet(depth).parameters()) == parameters


@pytest.mark.parametrize("depth, tensors", [(20, 97), (56, 277)])
def test_a_checkpoint_without_step_counters_has_as_many_tensors_as_the_released_ones(depth, tensors):
    with torch.device("meta"):
        names = CifarResNet(depth).state_dict()
    assert len([name for name in names if not name.endswith("num_batches_tracked")]) == tensors


def test_names_of_the_weights():
    names = {name for name, _ in CifarResNet(8).named_parameters()}
    layers = ("conv1.weight", "conv2.weight", "bn1.weight", "bn1.bias", "bn2.weight", "bn2.bias")
    assert {name for name in names if name.startswith("layer2")} == {f"layer2.0.{layer}" for layer in layers}
    assert {name for name in names if "layer" not in name} == {
        "conv1.weight",
        "bn1.weight",
        "bn1.bias",
        "linear.weight",
        "linear.bias",
    }


def test_maps_of_the_three_stages():
    model, seen = CifarResNet(8, num_classes=7).eval(), []
    for stage in (model.layer1, model.layer2, model.layer3):
        stage.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert seen == [(2, 16, 32, 32), (2, 32, 16, 16), (2, 64, 8, 8)]


def test_a_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides():
    x = torch.arange(2 * 4 * 4.0).view(1, 2, 4, 4)
    y = shortcut(x, 4, 2)
    assert y[0, [0, 3]].count_nonzero() == 0
    assert y[0, 1].tolist() == [[0, 2], [8, 10]]
    assert y[0, 2].tolist() == [[16, 18], [24, 26]]


def test_a_shortcut_between_equal_shapes_is_the_input():
    x = torch.rand(1, 2, 4, 4)
    assert shortcut(x, 2, 1) is x


def test_a_block_whose_second_norm_is_zero_is_its_shortcut():
    block = Block(4, 8, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 4, 6, 6)
    assert torch.equal(block(x), shortcut(x, 8, 2))


@pytest.mark.parametrize("depth", [2, 18, 21])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=f"^depth is {depth}, expected 6n \\+ 2"):
        CifarResNet(depth)
