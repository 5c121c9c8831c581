"""Detectors of Detectron2's zoo as configs of FRAMEWORK torchvision."""

import pytest

from kd2.config import assemble, defaults_of
from kd2.distill import ConfigError
from kd2.zoo.detectron2 import names
from kd2.zoo.torchvision_configs import torchvision_config


@pytest.mark.parametrize("name", ["COCO-Detection/faster_rcnn_R_50_C4_3x.yaml", "COCO-Keypoints/a.yaml"])
def test_what_torchvision_does_not_have_is_refused(name):
    with pytest.raises(
        ConfigError, match=r"^KEY: FRAMEWORK torchvision reads RetinaNet, Faster, Mask and Cascade R-CNN"
    ):
        torchvision_config(name, "KEY")


def test_every_config_for_torchvision_is_a_good_one():
    found = 0
    for name in names():
        try:
            loaded = torchvision_config(name, "KEY")
        except ConfigError:
            continue
        assert assemble(defaults_of("torchvision"), loaded, name).MODEL.CONVENTIONS == "detectron2"
        found += 1
    assert found == 17


def model(name: str):
    return assemble(defaults_of("torchvision"), torchvision_config(name, "KEY"), name).MODEL


def test_x101_has_its_strides_in_the_3x3_and_a_deviation_of_its_own():
    found = model("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml")
    assert (found.BACKBONE.STRIDE_IN_1X1, found.BACKBONE.ARGS, found.PIXEL_STD) == (
        False,
        {"groups": 32, "width_per_group": 8},
        [57.375, 57.12, 58.395],
    )


def test_other_data_have_other_classes():
    names = ("LVISv0.5-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml", "Cityscapes/mask_rcnn_R_50_FPN.yaml")
    assert [model(name).ROI_HEADS.NUM_CLASSES for name in names] == [1230, 8]
