"""Detectron2's names, anchors and classes as torchvision has them."""

import pytest
import torch

from kd2.zoo.detector_names import detector_state, is_detectron2
from kd2.zoo.resnet_names import body_state

NAMES = {
    "backbone.bottom_up.stem.conv1.weight": "backbone.body.conv1.weight",
    "backbone.bottom_up.stem.conv1.norm.running_var": "backbone.body.bn1.running_var",
    "backbone.bottom_up.res2.0.shortcut.weight": "backbone.body.layer1.0.downsample.0.weight",
    "backbone.bottom_up.res2.0.shortcut.norm.bias": "backbone.body.layer1.0.downsample.1.bias",
    "backbone.bottom_up.res4.22.conv3.norm.weight": "backbone.body.layer3.22.bn3.weight",
    "backbone.fpn_lateral3.weight": "backbone.fpn.inner_blocks.0.0.weight",
    "backbone.fpn_output5.bias": "backbone.fpn.layer_blocks.2.0.bias",
    "backbone.fpn_output5.norm.bias": "backbone.fpn.layer_blocks.2.1.bias",
    "backbone.top_block.p6.weight": "backbone.fpn.extra_blocks.p6.weight",
    "head.bbox_subnet.6.weight": "head.regression_head.conv.3.0.weight",
    "proposal_generator.rpn_head.conv.weight": "rpn.head.conv.0.0.weight",
    "roi_heads.box_head.fc2.bias": "roi_heads.box_head.fc7.bias",
    "roi_heads.mask_head.mask_fcn4.weight": "roi_heads.mask_head.3.0.weight",
    "roi_heads.mask_head.deconv.weight": "roi_heads.mask_predictor.conv5_mask.weight",
}


def converted(sizes: int = 1, ratios: int = 3, **state: torch.Tensor) -> dict[str, torch.Tensor]:
    return detector_state({name.replace("__", "."): value for name, value in state.items()}, sizes, ratios)[0]


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_a_name_is_torchvisions(theirs, ours):
    start = {"backbone.fpn_lateral3.weight": torch.zeros(1)}
    assert ours in detector_state(start | {theirs: torch.zeros(1)}, 3, 3)[0]


def test_behind_the_convolutions_of_a_tower_may_stand_norms():
    names = ("0.weight", "1.weight", "3.weight", "4.2.running_mean")
    state = converted(**{f"head__cls_subnet__{name.replace('.', '__')}": torch.zeros(1) for name in names})
    start = "head.classification_head.conv"
    assert list(state) == [
        f"{start}.{name}" for name in ("0.0.weight", "0.1.weight", "1.0.weight", "1.1.2.running_mean")
    ]


def test_the_first_level_of_an_rcnn_is_p2():
    state = converted(backbone__fpn_lateral2__weight=torch.zeros(1), backbone__fpn_lateral5__weight=torch.zeros(1))
    assert list(state) == ["backbone.fpn.inner_blocks.0.0.weight", "backbone.fpn.inner_blocks.3.0.weight"]


def test_anchors_stand_by_ratio_then_size():
    """Two sizes, three ratios: s0r0 s0r1 s0r2 s1r0 s1r1 s1r2."""
    state = converted(2, 3, head__cls_score__bias=torch.tensor([0, 1, 2, 10, 11, 12]))
    assert state["head.classification_head.cls_logits.bias"].tolist() == [0, 10, 1, 11, 2, 12]


def test_the_classes_and_sides_of_an_anchor_stay_together():
    bias = torch.tensor([[0.0, 0.5], [1.0, 1.5], [10.0, 10.5], [11.0, 11.5]])
    state = converted(2, 2, head__bbox_pred__bias=bias.flatten(), head__cls_score__bias=bias.flatten())
    for name in ("regression_head.bbox_reg", "classification_head.cls_logits"):
        assert state[f"head.{name}.bias"].reshape(4, 2)[:, 0].tolist() == [0, 10, 1, 11]
        assert torch.equal(state[f"head.{name}.bias"].reshape(4, 2)[:, 1] - 0.5, torch.tensor([0.0, 10.0, 1.0, 11.0]))


def test_background_is_first():
    state = converted(
        roi_heads__box_predictor__cls_score__weight=torch.tensor([[1.0], [2.0], [9.0]]),
        roi_heads__box_predictor__bbox_pred__weight=torch.arange(1.0, 9.0)[:, None],
        roi_heads__mask_head__predictor__weight=torch.tensor([[1.0], [2.0]]),
    )
    assert state["roi_heads.box_predictor.cls_score.weight"].flatten().tolist() == [9, 1, 2]
    assert state["roi_heads.box_predictor.bbox_pred.weight"].flatten().tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]
    assert state["roi_heads.mask_predictor.mask_fcn_logits.weight"].flatten().tolist() == [0, 1, 2]


def test_class_agnostic_boxes_serve_every_class():
    state = converted(
        roi_heads__box_predictor__cls_score__weight=torch.zeros(3, 1),
        roi_heads__box_predictor__bbox_pred__weight=torch.arange(1.0, 5.0)[:, None],
    )
    assert state["roi_heads.box_predictor.bbox_pred.weight"].flatten().tolist() == [0] * 4 + [1, 2, 3, 4] * 2


def test_the_boxes_of_one_class_are_not_repeated():
    state = converted(
        roi_heads__box_predictor__cls_score__weight=torch.zeros(2, 1),
        roi_heads__box_predictor__bbox_pred__weight=torch.ones(4, 1),
    )
    assert len(state["roi_heads.box_predictor.bbox_pred.weight"]) == 8


def test_of_a_cascade_the_first_stage_is_kept_and_the_others_are_named():
    state = {f"roi_heads.box_head.{i}.fc1.weight": torch.full((1,), float(i)) for i in range(3)}
    found, left = detector_state(state, 1, 3)
    assert found == {"roi_heads.box_head.fc6.weight": torch.zeros(1)}
    assert left == ["roi_heads.box_head.1.fc1.weight", "roi_heads.box_head.2.fc1.weight"]


def test_what_a_config_decides_is_left_out():
    state = converted(
        pixel_mean=torch.zeros(3), proposal_generator__anchor_generator__cell_anchors__0=torch.zeros(3, 4)
    )
    assert state == {}


def test_a_detector_of_torchvision_is_none_of_detectron2():
    assert not is_detectron2({"backbone.body.conv1.weight": torch.zeros(1)})


CAFFE2 = {
    "conv1_w": "conv1.weight",
    "res_conv1_bn_s": "bn1.weight",
    "res_conv1_bn_beta": "bn1.bias",
    "res2_0_branch1_w": "layer1.0.downsample.0.weight",
    "res2_0_branch1_bn_b": "layer1.0.downsample.1.bias",
    "res3_0_branch2a_w": "layer2.0.conv1.weight",
    "res3_11_branch2b_bn_gamma": "layer2.11.bn2.weight",
    "res5_2_branch2c_bn_riv": "layer4.2.bn3.running_var",
    "res5_2_branch2c_bn_rm": "layer4.2.bn3.running_mean",
}


@pytest.mark.parametrize(("theirs", "ours"), CAFFE2.items())
def test_a_name_of_caffe2_is_torchvisions(theirs, ours):
    assert ours in body_state({"res2_0_branch2a_w": torch.zeros(1), theirs: torch.zeros(1)})


def test_norms_of_caffe2_get_the_statistics_that_are_folded_into_them():
    state = body_state({"res2_0_branch2a_bn_s": torch.full((2,), 7.0), "res2_0_branch2a_bn_b": torch.zeros(2)})
    assert state["layer1.0.bn1.running_mean"].tolist() == [0, 0]
    assert state["layer1.0.bn1.running_var"].tolist() == [1, 1]


def test_the_classifier_of_caffe2_is_left_out():
    names = ("res2_0_branch2a_w", "conv1_b", "fc1000_w", "fc1000_b")
    assert list(body_state({name: torch.zeros(1) for name in names})) == ["layer1.0.conv1.weight"]


def test_detectron2s_own_resnet_becomes_torchvisions():
    state = body_state({"stem.conv1.norm.weight": torch.ones(1), "res2.0.conv1.weight": torch.zeros(1)})
    assert {"bn1.weight", "bn1.running_var", "layer1.0.conv1.weight"} <= set(state)


def test_torchvisions_own_weights_stay_as_they_are():
    assert list(body_state({"layer1.0.conv1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)})) == [
        "layer1.0.conv1.weight",
        "fc.bias",
    ]
