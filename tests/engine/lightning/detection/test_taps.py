"""Taps on torchvision's detectors."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")


from kd2.distill import ConfigError, TapError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

FCOS = {"META_ARCHITECTURE": "FCOS", "FPN": {"OUT_CHANNELS": 64}, "ANCHOR_GENERATOR": None}


@pytest.fixture
def prepare(tmp_path, data, teacher):
    """A distiller from changes to the config, and the first batch."""

    def prepare_with(changes: dict, teacher=teacher):
        config = tiny.write_config(tmp_path, data, tiny.distilled(teacher, changes))
        return runs.distiller(config), runs.first_batch(config)

    return prepare_with


def test_a_tap_that_does_not_exist_names_its_key_and_near_modules(prepare):
    text = r"^KD.STUDENT.TAPS: the model has no module 'backbon' \(tap 'fpn'\); did you mean backbone"
    with pytest.raises(TapError, match=text):
        prepare({"KD": {"STUDENT": {"TAPS": ["fpn=backbon"]}}})


def test_a_tap_of_the_teacher_names_the_teachers_key(prepare):
    with pytest.raises(TapError, match="^KD.TEACHER.TAPS: the model has no module 'backbon.fpn'"):
        prepare({"KD": {"TEACHER": {"TAPS": ["fpn=backbon.fpn"]}}})


def test_a_loss_on_an_unknown_alias_is_refused(prepare):
    text = r"^KD.LOSSES.imitation.TAP is 'fpm', no tap of the student has that alias; did you mean fpn\?$"
    with pytest.raises(ConfigError, match=text):
        prepare({"KD": {"LOSSES": {"imitation": {"TAP": "fpm"}}}})


def test_an_unknown_loss_is_refused(prepare):
    with pytest.raises(
        ConfigError, match=r"^KD.LOSSES.imitatoin: there is no loss 'imitatoin'; did you mean imitation"
    ):
        prepare({"KD": {"LOSSES": {"imitatoin": {"WEIGHT": 1.0}}}})


def test_a_map_that_a_later_relu_overwrites_is_refused(prepare):
    """torchvision's ResNets have in-place ReLUs behind their norms."""
    distiller, batch = prepare(
        {
            "MODEL": {"BACKBONE": {"NAME": "resnet18"}},
            "KD": {
                "STUDENT": {"TAPS": ["stem=backbone.body.bn1"]},
                "TEACHER": {"TAPS": ["stem=backbone.body.conv1"]},
                "LOSSES": {"imitation": {"WEIGHT": 0}, "hint": {"TAP": "stem"}},
            },
        }
    )
    text = "^KD.STUDENT.TAPS: the map of tap 'stem' at 'backbone.body.bn1' was changed in place by a later module"
    with pytest.raises(TapError, match=text):
        distiller(batch)


def test_chosen_levels_are_distilled_on_their_own_anchors(prepare, rcnn_teacher):
    taps = {"STUDENT": {"TAPS": ["fpn=backbone:1,3"]}, "TEACHER": {"TAPS": ["fpn=backbone:1,3"]}}
    distiller, batch = prepare(runs.merged(tiny.FASTER_RCNN, {"KD": taps}), rcnn_teacher)
    maps = distiller.teacher_features(batch)["fpn"]
    strides = [grid.stride[0] for grid in distiller.batch_info(batch).anchors([tuple(x.shape[2:]) for x in maps])]
    assert strides == [8, 32] and distiller(batch)["loss_imitation"] > 0


def test_an_anchor_free_student_needs_other_anchors(prepare):
    with pytest.raises(ConfigError, match="anchors"):
        distiller, batch = prepare({"MODEL": FCOS})
        distiller(batch)


@pytest.mark.parametrize("block", [{"ANCHORS": "retinanet"}, {"MODE": "gt_box"}, {"MODE": "full"}])
def test_an_anchor_free_student_can_be_distilled(prepare, block):
    fcos = {
        "MODEL": FCOS,
        "KD": {"LOSSES": {"imitation": block}},
    }
    distiller, batch = prepare(fcos)
    assert distiller(batch)["loss_imitation"] > 0


def test_every_loss_is_named_loss(prepare):
    distiller, batch = prepare({})
    assert set(distiller(batch)) == {"loss_classification", "loss_bbox_regression", "loss_imitation"}


def test_no_hook_stays_behind(prepare):
    distiller, batch = prepare({})
    distiller(batch)
    models = (distiller.student, distiller.teacher.model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for model in models for m in model.modules())
