"""Merging a file into the defaults: types and unknown keys."""

import pytest
from fvcore.common.config import CfgNode

from kd2.config import add_kd_config, defaults_of, merge, read
from kd2.config.merging import leaves
from kd2.distill import ConfigError
from kd2.losses.blocks import active_losses


def merged(loaded: dict) -> CfgNode:
    return merge(defaults_of("torchvision"), loaded)


def test_an_unknown_key_is_refused_with_near_names():
    with pytest.raises(ConfigError, match=r"^SOLVR: no such key; did you mean SOLVER"):
        merged({"SOLVR": {}})


def test_an_unknown_nested_key_is_refused_with_its_whole_path():
    text = r"^MODEL.RETINANET.NUM_CLASES: no such key; did you mean NUM_CLASSES, NUM_CONVS\?$"
    with pytest.raises(ConfigError, match=text):
        merged({"MODEL": {"RETINANET": {"NUM_CLASES": 3}}})


@pytest.mark.parametrize(
    ("loaded", "text"),
    [
        ({"SEED": 1.5}, r"SEED is 1.5 \(float\), expected a whole number in \[-1, 4294967295\]"),
        ({"SEED": True}, r"SEED is True \(bool\), expected a whole number in \[-1, 4294967295\]"),
        ({"SEED": "one"}, r"SEED is 'one' \(str\), expected a whole number"),
        ({"OUTPUT_DIR": 5}, r"OUTPUT_DIR is 5 \(int\), expected text"),
        ({"OUTPUT_DIR": None}, r"OUTPUT_DIR is None \(NoneType\), expected text"),
        ({"SOLVER": {"NESTEROV": 1}}, r"SOLVER.NESTEROV is 1 \(int\), expected True or False"),
        ({"SOLVER": {"BASE_LR": True}}, r"SOLVER.BASE_LR is True \(bool\), expected a number"),
        (
            {"INPUT": {"MIN_SIZE_TRAIN": 800}},
            r"INPUT.MIN_SIZE_TRAIN is 800 \(int\), expected a list of whole numbers above 0",
        ),
    ],
)
def test_a_value_of_another_type_is_refused(loaded, text):
    with pytest.raises(ConfigError, match=f"^{text}"):
        merged(loaded)


def test_a_value_where_a_group_belongs_is_refused_with_the_groups_keys():
    with pytest.raises(ConfigError, match=r"^SOLVER.AMP is True, expected a group of keys: ENABLED, PRECISION$"):
        merged({"SOLVER": {"AMP": True}})


def test_an_int_serves_as_a_float():
    value = merged({"SOLVER": {"BASE_LR": 1}}).SOLVER.BASE_LR
    assert (value, type(value)) == (1.0, float)


@pytest.mark.parametrize("sizes", [(640, 800), [640, 800], "(640, 800)"])
def test_tuple_list_and_the_text_of_a_tuple_are_the_same(sizes):
    assert merged({"INPUT": {"MIN_SIZE_TRAIN": sizes}}).INPUT.MIN_SIZE_TRAIN == [640, 800]


def test_yamls_1e_3_is_a_number():
    """YAML 1.1 reads 1e-3, without a dot, as text."""
    assert merged({"SOLVER": {"BASE_LR": "1e-3"}}).SOLVER.BASE_LR == 0.001


@pytest.mark.parametrize(("value", "found"), [(0.0, 0.0), (0, 0.0), ("1e-3", 0.001), (None, None)])
def test_an_optional_number_is_a_number_or_none(value, found):
    assert found == merged({"SOLVER": {"WEIGHT_DECAY_BIAS": value}}).SOLVER.WEIGHT_DECAY_BIAS


def test_an_optional_number_is_no_text():
    with pytest.raises(
        ConfigError, match=r"^SOLVER.WEIGHT_DECAY_BIAS is 'no', expected a number of 0 or more, or None$"
    ):
        merged({"SOLVER": {"WEIGHT_DECAY_BIAS": "no"}})


@pytest.mark.parametrize("value", [None, "None"])
def test_none_is_no_other_value(value):
    with pytest.raises(ConfigError, match=r"^SOLVER.BASE_LR is None \(NoneType\), expected a number of 0 or more$"):
        merged({"SOLVER": {"BASE_LR": value}})


@pytest.mark.parametrize("value", [["800"], [800, None], [[True]]])
def test_an_element_of_another_type_than_the_defaults_is_refused(value):
    with pytest.raises(ConfigError, match=r"^INPUT.MIN_SIZE_TRAIN\[\d\] is .*, expected a whole number above 0$"):
        merged({"INPUT": {"MIN_SIZE_TRAIN": value}})


def test_losses_take_new_names():
    cfg = merged({"KD": {"LOSSES": {"near": {"TYPE": "imitation", "WEIGHT": 2.0}}}})
    assert list(active_losses(cfg.KD.LOSSES)) == ["near"]


def test_an_option_can_switch_a_loss_off():
    loaded = {"KD": {"LOSSES": {"imitation": {"WEIGHT": 0}}}}
    assert active_losses(merged(loaded).KD.LOSSES) == {}


def test_a_loss_off_is_still_checked():
    loaded = {"KD": {"LOSSES": {"imitation": {"WEIGHT": 0, "PSY": 0.5}}}}
    with pytest.raises(ConfigError, match=r"^KD.LOSSES.imitation.PSY: no such key; did you mean PSI\?"):
        active_losses(merged(loaded).KD.LOSSES)


def test_own_data_sets_take_new_names():
    entry = {"JSON": "a.json", "IMAGES": "a"}
    assert merged({"DATASETS": {"CUSTOM": {"mine": entry}}}).DATASETS.CUSTOM.mine == entry


def test_defaults_are_not_shared_between_configs():
    merged({"KD": {"LOSSES": {"hint": {}}}})
    assert not defaults_of("torchvision").KD.LOSSES


def test_a_dumped_config_reads_back_equal(tmp_path):
    cfg = merged({"KD": {"LOSSES": {"hint": {"WEIGHT": 2}}}, "SOLVER": {"BASE_LR": 0.5}})
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert merged(read(str(tmp_path / "config.yaml"))) == cfg


def test_defaults_are_the_same_keys_in_both_frameworks_that_lightning_trains():
    """Keys of the networks themselves apart: each library has its own, and classifiers see one square size."""
    ours, theirs = (dict(leaves(defaults_of(name))) for name in ("torchvision", "timm"))
    different = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert different == {"FRAMEWORK", "KD.TAPS"}


def test_defaults_of_the_solver_are_detectron2s():
    """Where Detectron2 has the key."""
    get_cfg = pytest.importorskip("detectron2.config").get_cfg
    theirs = {key: list(x) if isinstance(x, tuple) else x for key, x in leaves(add_kd_config(get_cfg()))}
    ours = dict(leaves(defaults_of("torchvision")))
    shared = {key for key in ours.keys() & theirs.keys() if key.startswith(("SOLVER", "TEST", "DATALOADER", "KD"))}
    assert {key: ours[key] for key in shared} == {key: theirs[key] for key in shared}
