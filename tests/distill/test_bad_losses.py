"""Losses that cannot work end with an error that names their block of the config."""

import pytest

from kd2.distill import ConfigError, FeatureSpec
from kd2.losses.blocks import build_losses

from ..helpers.toys import batch, distiller

FEATURE_TERMS = ("mgd", "fgd", "tat", "mimic")


def level(stride: int, channels: int = 4) -> FeatureSpec:
    return FeatureSpec(channels, (64 // stride, 96 // stride), (stride, stride))


def build(block: dict, student: list[FeatureSpec], teacher: list[FeatureSpec]) -> None:
    build_losses({"mine": block}, {"fpn": student}, {"fpn": teacher})


@pytest.mark.parametrize("kind", FEATURE_TERMS)
def test_unequal_numbers_of_levels(kind):
    text = r"^KD.LOSSES.mine.TAP 'fpn' has 2 maps in the student and 1 in the teacher$"
    with pytest.raises(ConfigError, match=text):
        build({"TYPE": kind}, [level(8), level(16)], [level(8)])


@pytest.mark.parametrize("kind", FEATURE_TERMS)
def test_strides_that_differ(kind):
    text = (
        r"^KD.LOSSES.mine: level 1 is a map of \(4, 6\) cells at stride \(16, 16\) in the student "
        r"and of \(2, 3\) at stride \(32, 32\) in the teacher; .* RESIZE: student or RESIZE: teacher$"
    )
    with pytest.raises(ConfigError, match=text):
        build({"TYPE": kind}, [level(8), level(16)], [level(8), level(32)])


@pytest.mark.parametrize("side", ["student", "teacher"])
@pytest.mark.parametrize("kind", FEATURE_TERMS)
def test_strides_may_differ_when_a_side_is_resized(kind, side):
    build({"TYPE": kind, "RESIZE": side}, [level(8)], [level(16)])


def test_an_unknown_side():
    with pytest.raises(ConfigError, match="^KD.LOSSES.mine.RESIZE is 'both'; choices: none, student, teacher$"):
        build({"TYPE": "mgd", "RESIZE": "both"}, [level(8)], [level(16)])


@pytest.mark.parametrize("ratio", [-0.1, 1.5])
def test_a_ratio_that_is_no_share(ratio):
    with pytest.raises(ConfigError, match=rf"^KD.LOSSES.mine.RATIO is {ratio}, expected a number in \[0, 1\]$"):
        build({"TYPE": "mgd", "RATIO": ratio}, [level(8)], [level(8)])


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_above_zero(temperature):
    with pytest.raises(ConfigError, match=f"^KD.LOSSES.mine.TEMPERATURE is {temperature}, expected a number above 0$"):
        build({"TYPE": "fgd", "TEMPERATURE": temperature}, [level(8)], [level(8)])


def test_heads_that_do_not_divide_the_channels():
    with pytest.raises(ConfigError, match="^KD.LOSSES.mine: HEADS is 3, it must divide"):
        build({"TYPE": "tat", "HEADS": 3}, [level(8)], [level(8)])


# What only a batch can tell: the toys' maps are 16 x 24 and 8 x 12 cells.


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"PATCH": [10, 4]}, r"PATCH is \[10, 4\], larger than the map of \(8, 12\) cells of level 1$"),
        (
            {"ANCHOR_WEIGHT": 1.0, "ANCHOR_SIZE": [4, 13]},
            r"ANCHOR_SIZE is \[4, 13\], larger than the map of \(8, 12\) cells of level 1$",
        ),
        ({"PATCH": [4, 4], "GROUP": 5}, r"GROUP is 5, it must divide the 24 patches of \[4, 4\] cells"),
    ],
    ids=["patch", "anchor", "group"],
)
def test_pieces_that_do_not_fit_the_map(block, text):
    with pytest.raises(ConfigError, match=f"^KD.LOSSES.mine: {text}"):
        distiller({"mine": {"TYPE": "tat"} | block})(batch())
