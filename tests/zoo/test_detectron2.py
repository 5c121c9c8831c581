"""Names of Detectron2's zoo."""

import pytest

from kd2.config import assemble, defaults_of
from kd2.distill import ConfigError
from kd2.zoo.detectron2 import address, is_name, names, torchvision_config


def test_a_name_has_the_address_of_its_weights():
    assert address("COCO-Detection/retinanet_R_101_FPN_3x.yaml", "KEY") == (
        "https://dl.fbaipublicfiles.com/detectron2/COCO-Detection/retinanet_R_101_FPN_3x/190397697/"
        "model_final_971ab9.pkl"
    )


def test_detectron2s_scheme_has_an_address():
    assert address("detectron2://ImageNetPretrained/MSRA/R-50.pkl", "KEY") == (
        "https://dl.fbaipublicfiles.com/detectron2/ImageNetPretrained/MSRA/R-50.pkl"
    )


def test_a_mistyped_name_is_refused_with_near_ones():
    text = "^KEY: the zoo has no weights of .*_9x.yaml'; did you mean COCO-Detection/retinanet_R_101_FPN_3x.yaml"
    with pytest.raises(ConfigError, match=text):
        address("COCO-Detection/retinanet_R_101_FPN_9x.yaml", "KEY")


@pytest.mark.parametrize("name", ["teacher.yaml", "output/model_final.pth", "configs/coco/teacher.yaml", ""])
def test_a_path_is_no_name(name):
    assert not is_name(name)


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
