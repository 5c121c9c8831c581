"""Building losses from the blocks of KD.LOSSES."""

import pytest
from kd2.losses.hint import Hint

from kd2.distill import ConfigError, FeatureSpec, LossConfig, Schedule
from kd2.losses.imitation import Imitation
from kd2.losses.registry import active_losses, build_losses, loss_types

SMALL, LARGE = [FeatureSpec(3, (4, 4), (8.0, 8.0))], [FeatureSpec(5, (4, 4), (8.0, 8.0))]


def build(blocks: dict, student: dict | None = None, teacher: dict | None = None):
    return build_losses(blocks, student or {"fpn": SMALL}, teacher or {"fpn": LARGE})


def test_loss_types_are_the_public_files_of_the_folder():
    assert {"hint", "imitation"} <= set(loss_types())
    assert not any(name.startswith("_") for name in loss_types())


def test_without_a_type_the_name_of_the_block_is_the_type():
    modules, _ = build({"imitation": {}})
    assert type(modules["imitation"]) is Imitation


def test_a_type_frees_the_name():
    modules, _ = build({"first": {"TYPE": "hint"}, "second": {"TYPE": "hint"}})
    assert {name: type(module) for name, module in modules.items()} == {"first": Hint, "second": Hint}


def test_capital_keys_become_options():
    modules, _ = build({"imitation": {"PSI": 0.25, "MODE": "gt_box"}})
    assert (modules["imitation"].psi, modules["imitation"].mode) == (0.25, "gt_box")


def test_common_keys_become_tap_and_schedule():
    block = {"TAP": "x", "WEIGHT": 0.01, "START_ITER": 400, "RAMP_ITERS": 10, "STOP_ITER": 900}
    _, uses = build({"imitation": block}, {"x": SMALL}, {"x": LARGE})
    assert uses["imitation"] == LossConfig("x", Schedule(0.01, start=400, ramp=10, stop=900))


def test_defaults_are_the_fpn_tap_and_weight_one():
    _, uses = build({"imitation": {}})
    assert uses["imitation"] == LossConfig("fpn", Schedule(1.0))


@pytest.mark.parametrize("weight", [0, 0.0])
def test_a_loss_of_weight_zero_is_not_built(weight):
    assert build({"imitation": {"WEIGHT": weight}}) == ({}, {})


def test_a_loss_of_weight_zero_needs_no_tap():
    assert build({"imitation": {"WEIGHT": 0, "TAP": "nowhere"}}) == ({}, {})


def test_a_loss_of_weight_zero_is_still_checked():
    with pytest.raises(ConfigError, match="KD.LOSSES.imitation.PSY: no such key; did you mean PSI"):
        active_losses({"imitation": {"WEIGHT": 0, "PSY": 1.0}})


def test_an_unknown_type_lists_near_ones():
    with pytest.raises(ConfigError, match="KD.LOSSES.x.TYPE: there is no loss 'imitatoin'; did you mean imitation"):
        build({"x": {"TYPE": "imitatoin"}})


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(
        ConfigError, match="KD.LOSSES.imitations: there is no loss 'imitations'; did you mean imitation"
    ):
        build({"imitations": {}})


def test_a_private_file_is_no_type():
    with pytest.raises(ConfigError, match="there is no loss '_masks'"):
        build({"_masks": {}})


def test_a_block_must_hold_keys():
    with pytest.raises(
        ConfigError, match="KD.LOSSES.imitation is 0.5, expected a block of keys such as WEIGHT and TAP"
    ):
        build({"imitation": 0.5})


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("PSI", "0.5", r"PSI is '0.5' \(str\), expected float"),
        ("START_ITER", 1.5, r"START_ITER is 1.5 \(float\), expected int"),
        ("ADAPTER", 1, r"ADAPTER is 1 \(int\), expected bool"),
        ("WEIGHT", True, r"WEIGHT is True \(bool\), expected float"),
        ("MODE", "box", "MODE is 'box'; did you mean gt_box"),
        ("LEVEL_RULE", 3, "LEVEL_RULE is 3; choices: joint, per_level"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(key, value, text):
    with pytest.raises(ConfigError, match=f"KD.LOSSES.imitation.{text}"):
        build({"imitation": {key: value}})


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"START_ITER": -1}, "START_ITER is -1, expected a number of iterations, 0 or more"),
        ({"RAMP_ITERS": -5}, "RAMP_ITERS is -5, expected a number of iterations, 0 or more"),
        ({"STOP_ITER": -2}, r"STOP_ITER is -2, expected -1 \(never\) or an iteration after START_ITER, which is 0"),
        (
            {"START_ITER": 400, "STOP_ITER": 400},
            r"STOP_ITER is 400, expected -1 \(never\) or an iteration after START_ITER, which is 400",
        ),
    ],
)
def test_times_in_no_order_are_refused(block, text):
    with pytest.raises(ConfigError, match=f"^KD.LOSSES.imitation.{text}$"):
        build({"imitation": block})


def test_a_number_or_a_list_is_named_as_such():
    with pytest.raises(ConfigError, match=r"KD.LOSSES.tat.PATCH is 4.0 \(float\), expected int or list"):
        build({"tat": {"PATCH": 4.0}})


@pytest.mark.parametrize("patch", [4, [4, 4]])
def test_a_number_and_a_list_are_accepted(patch):
    modules, _ = build({"tat": {"PATCH": patch}})
    assert modules["tat"].patch == (4, 4)


def test_a_whole_number_is_a_float():
    modules, _ = build({"imitation": {"PSI": 1}})
    assert modules["imitation"].psi == 1


@pytest.mark.parametrize(("side", "student", "teacher"), [("student", "fpm", "fpn"), ("teacher", "fpn", "fpm")])
def test_an_unknown_tap_is_named_with_its_side(side, student, teacher):
    with pytest.raises(ConfigError, match=f"TAP is 'fpn', no tap of the {side} has that alias; did you mean fpm"):
        build({"imitation": {}}, {student: SMALL}, {teacher: LARGE})


def test_taps_with_different_numbers_of_maps_are_refused():
    with pytest.raises(ConfigError, match="imitation.TAP 'fpn' has 2 maps in the student and 1 in the teacher"):
        build({"imitation": {}}, {"fpn": SMALL * 2})


def test_errors_of_a_loss_name_its_block():
    with pytest.raises(ConfigError, match="KD.LOSSES.imitation: PSI is 2.0, expected a number"):
        build({"imitation": {"PSI": 2.0}})
