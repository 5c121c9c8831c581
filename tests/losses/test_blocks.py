"""The blocks of KD.LOSSES: judged from the text alone, completed, built."""

import pytest

from kd2.distill import ConfigError, FeatureSpec, LossConfig, Schedule
from kd2.losses import active_losses, build_losses, check_losses
from kd2.losses.features import FeatureDistance
from kd2.losses.imitation import Imitation

SMALL, LARGE = [FeatureSpec(3, (4, 4), (8.0, 8.0))], [FeatureSpec(5, (4, 4), (8.0, 8.0))]


def build(blocks: dict, student: dict | None = None, teacher: dict | None = None):
    return build_losses(blocks, student or {"fpn": SMALL}, teacher or {"fpn": LARGE})


def test_without_a_type_the_name_of_the_block_is_the_type():
    modules, _ = build({"imitation": {}})
    assert type(modules["imitation"]) is Imitation


def test_a_type_frees_the_name():
    modules, _ = build({"first": {"TYPE": "hint"}, "second": {"TYPE": "hint"}})
    assert {name: type(module) for name, module in modules.items()} == dict.fromkeys(
        ("first", "second"), FeatureDistance
    )


def test_capital_keys_become_options():
    modules, _ = build({"imitation": {"PSI": 0.25, "MODE": "gt_box"}})
    assert (modules["imitation"].psi, modules["imitation"].mode) == (0.25, "gt_box")


def test_common_keys_become_tap_and_schedule():
    block = {"TAP": "x", "WEIGHT": 0.01, "START_ITER": 400, "RAMP_ITERS": 10, "STOP_ITER": 900}
    _, configs = build({"imitation": block}, {"x": SMALL}, {"x": LARGE})
    assert configs["imitation"] == LossConfig("x", Schedule(0.01, start=400, ramp=10, stop=900))


def test_defaults_are_the_fpn_tap_and_a_share_measured_over_10_iterations():
    _, configs = build({"mgd": {}})
    assert configs["mgd"] == LossConfig("fpn", Schedule(2.0), calibrate=10, adapter_lr=5.0)


def test_a_weight_is_no_share_and_leaves_the_adapters_rate():
    _, configs = build({"mgd": {"WEIGHT": 2.0}})
    assert configs["mgd"] == LossConfig("fpn", Schedule(2.0))


@pytest.mark.parametrize("strength", [{"WEIGHT": 2.0}, {"SHARE": 2.0}, {}])
def test_the_adapters_rate_is_a_key_beside_either(strength):
    _, configs = build({"mgd": strength | {"ADAPTER_LR": 3.0}})
    assert configs["mgd"].adapter_lr == 3.0


@pytest.mark.parametrize(
    "block", [{"logits": {"TAP": "fpn"}}, {"mimic": {"ADAPTER": "none"}}, {"holistic": {"TAP": "fpn"}}]
)
def test_a_rate_of_adapters_that_there_are_none_of_is_refused(block):
    ((name, options),) = block.items()
    build(block, teacher={"fpn": SMALL})
    with pytest.raises(ConfigError, match=rf"^KD.LOSSES.{name}.ADAPTER_LR is given, but this loss has no adapters"):
        build({name: options | {"ADAPTER_LR": 5.0}}, teacher={"fpn": SMALL})


@pytest.mark.parametrize("kind", ["logits", "pixelwise", "dist"])
def test_a_softmax_over_one_class_is_refused(kind):
    one = {"fpn": [FeatureSpec(1, (4, 4), (8.0, 8.0))]}
    with pytest.raises(ConfigError, match=rf"^KD.LOSSES.{kind}: .*one class"):
        build({kind: {"TAP": "fpn"}}, one, one)
    assert build({"channel_kd": {"TAP": "fpn"}}, one, one)[0]  # over the cells


def test_adapters_that_do_not_learn_are_refused():
    with pytest.raises(ConfigError, match=r"KD\.LOSSES\.mgd\.ADAPTER_LR is 0, expected a number above 0"):
        check_losses({"mgd": {"ADAPTER_LR": 0}})


def test_weight_and_share_together_are_refused():
    with pytest.raises(ConfigError, match=r"KD\.LOSSES\.imitation has both WEIGHT and SHARE"):
        check_losses({"imitation": {"WEIGHT": 1.0, "SHARE": 0.5}})
    with pytest.raises(ConfigError, match=r"KD\.LOSSES\.imitation has both WEIGHT and CALIBRATE_ITERS"):
        check_losses({"imitation": {"WEIGHT": 1.0, "CALIBRATE_ITERS": 5}})


def test_no_more_iterations_are_measured_than_there_are_between_two_measurements():
    with pytest.raises(ConfigError, match=r"CALIBRATE_ITERS is 101, expected a whole number in \[1, 100\]"):
        check_losses({"imitation": {"CALIBRATE_ITERS": 101}})


@pytest.mark.parametrize("key", ["WEIGHT", "SHARE"])
def test_a_loss_of_weight_or_share_0_is_not_built(key):
    assert active_losses({"imitation": {key: 0}, "mgd": {}}) == {"mgd": {}}


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


@pytest.mark.parametrize("kind", [3, ["mgd"]])
def test_a_type_that_is_no_text_is_refused(kind):
    with pytest.raises(ConfigError, match="KD.LOSSES.x.TYPE: there is no loss"):
        check_losses({"x": {"TYPE": kind}})


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(
        ConfigError, match="KD.LOSSES.imitations: there is no loss 'imitations'; did you mean imitation"
    ):
        build({"imitations": {}})


@pytest.mark.parametrize("name", ["a-b", "a.b", "", "keys", "training", 3])
def test_a_name_that_a_log_or_a_module_cannot_carry_is_refused(name):
    with pytest.raises(ConfigError, match=f"KD.LOSSES.{name}: a loss cannot have this name; expected letters, digits"):
        check_losses({name: {"TYPE": "mgd"}})


def test_losses_must_be_blocks_by_name():
    with pytest.raises(ConfigError, match=r"KD.LOSSES is \['mgd'\], expected blocks by name"):
        check_losses(["mgd"])


def test_a_block_must_hold_keys():
    with pytest.raises(
        ConfigError, match="KD.LOSSES.imitation is 0.5, expected a block of keys such as WEIGHT and TAP"
    ):
        build({"imitation": 0.5})


@pytest.mark.parametrize(
    ("kind", "key", "value", "text"),
    [
        ("imitation", "PSI", "0.5", r"PSI is '0.5' \(str\), expected a number in \[0, 1\]"),
        ("imitation", "START_ITER", 1.5, r"START_ITER is 1.5 \(float\), expected a whole number of 0 or more"),
        ("imitation", "PLUS_ONE", 1, r"PLUS_ONE is 1 \(int\), expected True or False"),
        ("imitation", "WEIGHT", True, r"WEIGHT is True \(bool\), expected a number of 0 or more"),
        ("imitation", "MODE", "box", "MODE is 'box'; did you mean gt_box"),
        ("imitation", "LEVEL_RULE", 3, "LEVEL_RULE is 3; choices: joint, per_level"),
        ("tat", "PROJECTION_KERNEL", True, "PROJECTION_KERNEL is True; choices: 1, 3"),
        ("tat", "PROJECTION_KERNEL", 1.0, "PROJECTION_KERNEL is 1.0; did you mean 1"),
        ("tat", "PATCH", 4, r"PATCH is 4 \(int\), expected two whole numbers above 0: rows and columns"),
        ("tat", "PATCH", [4], r"PATCH is \[4\], expected two whole numbers above 0: rows and columns"),
        ("tat", "PATCH", [4, "4"], r"PATCH\[1\] is '4' \(str\), expected two whole numbers above 0"),
        ("tat", "PATCH", [4.0, 4], r"PATCH\[0\] is 4.0 \(float\), expected two whole numbers above 0"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_was_expected(kind, key, value, text):
    with pytest.raises(ConfigError, match=f"^KD.LOSSES.{kind}.{text}"):
        check_losses({kind: {key: value}})


@pytest.mark.parametrize(
    ("kind", "key", "value", "text"),
    [
        ("imitation", "PSI", -0.1, r"expected a number in \[0, 1\]"),
        ("imitation", "PSI", 1.1, r"expected a number in \[0, 1\]"),
        ("imitation", "WEIGHT", -1.0, "expected a number of 0 or more"),
        ("mgd", "RATIO", 2, r"expected a number in \[0, 1\]"),
        ("logits", "TEMPERATURE", 0.0, "expected a number above 0"),
        ("fgd", "TEMPERATURE", -1.0, "expected a number above 0"),
        ("dkd", "TEMPERATURE", 0, "expected a number above 0"),
        ("pixelwise", "ENLARGE", 0, "expected a whole number above 0"),
        ("holistic", "WIDTH", 3, "expected an even number of at least 2"),
        ("holistic", "WIDTH", 0, "expected an even number of at least 2"),
        ("holistic", "PENALTY", -1.0, "expected a number of 0 or more"),
        ("holistic", "CLIP", -1.0, "expected a number of 0 or more"),
        ("pairwise", "SCALE", 0.0, "expected a share of the map between 0 and 1"),
        ("pairwise", "SCALE", 1.0, "expected a share of the map between 0 and 1"),
        ("pairwise", "EPS", 0.0, "expected a number above 0"),
        ("pairwise", "CONNECTION_RANGE", -1, "expected a whole number of 0 or more"),
        ("tat", "HEADS", 0, "expected a whole number above 0"),
        ("tat", "GROUP", 0, "expected a whole number above 0"),
    ],
)
def test_a_value_outside_its_range_is_refused_from_the_text_alone(kind, key, value, text):
    with pytest.raises(ConfigError, match=f"^KD.LOSSES.{kind}.{key} is {value}, {text}"):
        check_losses({kind: {key: value}})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(("kind", "key"), [("mgd", "WEIGHT"), ("logits", "TEMPERATURE"), ("holistic", "LR")])
def test_a_number_that_is_not_finite_is_refused(kind, key, value):
    with pytest.raises(ConfigError, match=f"^KD.LOSSES.{kind}.{key} is {value}, expected a number .*, finite"):
        check_losses({kind: {key: value}})


@pytest.mark.parametrize("patch", [[2, 0], (0, 2), [2, -1]])
def test_cells_are_whole_numbers_above_zero(patch):
    with pytest.raises(ConfigError, match=r"^KD.LOSSES.pairwise.PATCH\[\d\] is .*, expected two whole numbers above 0"):
        check_losses({"pairwise": {"PATCH": patch}})


def test_an_empty_list_of_cells_is_allowed_where_it_means_something():
    check_losses({"tat": {"PATCH": []}, "pairwise": {"PATCH": ()}})
    with pytest.raises(ConfigError, match=r"ANCHOR_SIZE is \[\], expected two whole numbers above 0"):
        check_losses({"tat": {"ANCHOR_SIZE": []}})


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"START_ITER": -1}, "START_ITER is -1, expected a whole number of 0 or more"),
        ({"RAMP_ITERS": -5}, "RAMP_ITERS is -5, expected a whole number of 0 or more"),
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
    with pytest.raises(ConfigError, match="KD.LOSSES.tat: HEADS is 4, it must divide the teacher's 5 channels"):
        build({"tat": {"HEADS": 4}})


@pytest.mark.parametrize("kind", ["logits", "pixelwise", "channel_kd", "dkd", "dist", "dense_kd", "roi_kd", "holistic"])
def test_a_loss_on_scores_names_their_tap(kind):
    """By default it would take the channels of a feature pyramid for classes."""
    with pytest.raises(
        ConfigError, match=rf"^KD.LOSSES.{kind}.TAP is missing; it compares classes, expected the alias"
    ):
        check_losses({kind: {}})
