"""timm networks as Detectron2 backbones."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_backbone

from kd2.distill import ConfigError
from kd2.engine.detectron2 import add_d2_config


def config(builder: str = "build_timm_backbone", *options, **arguments):
    cfg = add_d2_config(get_cfg())
    cfg.MODEL.TIMM.ARGS = CfgNode(arguments)
    cfg.merge_from_list(["MODEL.BACKBONE.NAME", builder, "MODEL.BACKBONE.FREEZE_AT", 0, "MODEL.FPN.OUT_CHANNELS", 16])
    cfg.merge_from_list(["MODEL.TIMM.NAME", "test_resnet", *options])
    return cfg


RETINA, TWO_STAGE = ["res3", "res4", "res5"], ["res2", "res3", "res4", "res5"]


@pytest.mark.parametrize(
    "builder, inputs, names",
    [
        ("build_timm_backbone", TWO_STAGE, ["res2", "res3", "res4", "res5"]),
        ("build_timm_fpn_backbone", TWO_STAGE, ["p2", "p3", "p4", "p5", "p6"]),
        ("build_retinanet_timm_fpn_backbone", RETINA, ["p3", "p4", "p5", "p6", "p7"]),
    ],
)
@pytest.mark.parametrize("net", ["test_resnet", "test_efficientnet"])
def test_maps_have_the_promised_names_channels_and_strides(builder, inputs, names, net):
    backbone = build_backbone(config(builder, "MODEL.FPN.IN_FEATURES", inputs, "MODEL.TIMM.NAME", net))
    shapes, maps = backbone.output_shape(), backbone(torch.rand(1, 3, 128, 128))
    assert list(maps) == names and shapes.keys() == maps.keys()
    for name, x in maps.items():
        assert x.shape == (1, shapes[name].channels, 128 // shapes[name].stride, 128 // shapes[name].stride)


@pytest.mark.parametrize("net", ["test_resnet", "test_efficientnet"])
@pytest.mark.parametrize("stride, strides", [(8, [4, 8, 8, 8]), (16, [4, 8, 16, 16])])
def test_a_dilated_network_keeps_the_names_and_its_maps_stay_large(net, stride, strides):
    backbone = build_backbone(config("build_timm_backbone", "MODEL.TIMM.NAME", net, output_stride=stride))
    shapes, maps = backbone.output_shape(), backbone(torch.rand(1, 3, 64, 64))
    assert [shape.stride for shape in shapes.values()] == strides and backbone.size_divisibility == stride
    assert [64 // x.shape[2] for x in maps.values()] == strides


def test_a_resnets_channels_and_stem_are_arguments():
    arguments = {"channels": [32, 64, 128, 256], "stem_type": "deep", "stem_width": 32}
    backbone = build_backbone(config("build_timm_backbone", "MODEL.TIMM.NAME", "resnet18", **arguments))
    assert [shape.channels for shape in backbone.output_shape().values()] == [32, 64, 128, 256]


@pytest.mark.parametrize(
    "builder, arguments, text",
    [
        ("build_timm_backbone", {"stride": 8}, "ARGS {'stride': 8} does not suit 'test_resnet': .*'stride'"),
        ("build_timm_backbone", {"output_stride": 7}, "{'output_stride': 7} does not suit 'test_resnet': a value"),
        ("build_timm_fpn_backbone", {"output_stride": 8}, r"strides \[4, 8, 8, 8\], an FPN needs a different"),
    ],
)
def test_arguments_that_do_not_suit_are_named(builder, arguments, text):
    with pytest.raises(ConfigError, match=text):
        build_backbone(config(builder, "MODEL.FPN.IN_FEATURES", TWO_STAGE, **arguments))


@pytest.mark.parametrize("net", ["test_resnet", "test_efficientnet"])
def test_frozen_norms_have_no_parameters_and_the_same_function(net):
    torch.manual_seed(0)
    plain = build_backbone(config("build_timm_backbone", "MODEL.TIMM.NAME", net)).eval()
    torch.manual_seed(0)
    frozen = build_backbone(config("build_timm_backbone", "MODEL.TIMM.NAME", net, "MODEL.TIMM.NORM", "FrozenBN"))
    assert len(list(frozen.parameters())) < len(list(plain.parameters()))
    x = torch.rand(1, 3, 64, 64)
    for a, b in zip(plain(x).values(), frozen.train()(x).values()):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "options, text",
    [
        (["MODEL.TIMM.NAME", "test_resnett"], "MODEL.TIMM.NAME is 'test_resnett'; did you mean test_resnet"),
        (["MODEL.TIMM.NAME", "test_vit"], "MODEL.TIMM.NAME 'test_vit' has maps of strides"),
        (["MODEL.TIMM.NORM", "GN"], "MODEL.TIMM.NORM is 'GN'; did you mean BN"),
        (["MODEL.BACKBONE.FREEZE_AT", 2], "MODEL.BACKBONE.FREEZE_AT is 2, a timm backbone trains as a whole"),
    ],
)
def test_what_cannot_be_built_is_named(options, text):
    with pytest.raises(ConfigError, match=text):
        build_backbone(config("build_timm_backbone", *options))
