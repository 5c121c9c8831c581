"""Names of Detectron2's zoo."""

import pytest

from kd2.distill import ConfigError
from kd2.zoo.detectron2 import address, is_name


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
