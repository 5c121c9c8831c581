"""Images without labels beside the labeled ones: the losses see them, the student's heads do not."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from pathlib import Path

import torch
from torch import nn

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

# Teachers that were trained for two iterations are sure of nothing: all that they find counts.
ALL = ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
UNLABELED = {
    "INPUT": {"MIN_SIZE_TRAIN": [64], "RANDOM_FLIP": "none"},
    "KD": {
        "UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1, "SCORE_THRESH": 0.0},
        "TEACHER": {"OPTS": ALL},
        "LOSSES": {"pkd": {"WEIGHT": 1.0}},
    },
}


@pytest.fixture(params=["RetinaNet", "FasterRCNN"])
def write(request, tmp_path, data, teacher, rcnn_teacher):
    """Writes a config of a student beside images without labels; ``changes`` over it."""

    def written(changes: dict | None = None, name: str = "student") -> str:
        detector = {"MODEL": {"META_ARCHITECTURE": request.param}}
        more = {"DATASETS": {"CUSTOM": {"more": {"UNLABELED": str(data / "images")}}}}
        own = runs.merged(runs.merged(runs.merged(UNLABELED, more), detector), changes or {})
        source = teacher if request.param == "RetinaNet" else rcnn_teacher
        return tiny.write_config(tmp_path, data, tiny.distilled(source, own), name)

    return written


@pytest.fixture
def pair(write):
    """The distiller, whose norm layers do not couple images, and its first batch: two labeled images and one more."""

    def pair_with(changes: dict | None = None):
        config = write(changes)
        distiller = runs.distiller(config)
        for module in distiller.student.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return distiller, runs.first_batch(config)

    return pair_with


def losses_of(distiller, batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # an R-CNN samples
    return distiller(batch)


def test_they_count_in_the_losses_and_not_in_the_students_own(pair):
    distiller, batch = pair()
    assert (len(batch.images), len(batch.targets)) == (3, 2)
    before = losses_of(distiller, batch)
    batch.unit_images[2] = 1 - batch.unit_images[2]
    after = losses_of(distiller, batch)
    own = [name for name in before if name not in ("loss_imitation", "loss_pkd")]
    assert len(own) >= 2 and all(torch.equal(before[name], after[name]) for name in own)
    assert not torch.equal(before["loss_pkd"], after["loss_pkd"])


def test_the_students_own_losses_are_those_of_plain_training(pair, write):
    distiller, batch = pair()
    plain, own = runs.distiller(write({"KD": {"UNLABELED": None}}, "plain")), batch.images[:2]
    for module in plain.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    batch.images[2] = own[0].clone()  # of no larger size, so that the padding is the same
    alone = type(batch)(own, batch.targets, batch.boxes[:2], batch.records[:2])
    with_more, without = losses_of(distiller, batch), losses_of(plain, alone)
    for name in set(with_more) - {"loss_imitation", "loss_pkd"}:
        torch.testing.assert_close(with_more[name], without[name], rtol=1e-5, atol=1e-6)


def test_the_teachers_own_detections_are_their_boxes(pair):
    distiller, batch = pair()
    batch.unit_images[:2] = [batch.unit_images[2]] * 2  # of one size: the padding decides what is found too
    distiller.teacher_features(batch)
    with torch.no_grad():
        (found,) = distiller.teacher.model([batch.unit_images[2]])
    assert len(batch.boxes[2]) == len(found["boxes"]) > 0
    distance = (batch.boxes[2][:, None] - found["boxes"]).abs().amax(2)
    assert distance.amin(1).max() < 0.01  # two of one score may stand in either order


def test_those_with_small_scores_are_none(pair):
    distiller, batch = pair({"KD": {"UNLABELED": {"SCORE_THRESH": 1.0}}})
    losses = distiller(batch)
    assert [len(boxes) for boxes in batch.boxes] == [2, 2, 0] and losses["loss_imitation"].isfinite()


def test_the_teacher_stops_behind_its_tap_where_no_loss_needs_boxes(pair):
    distiller, batch = pair({"KD": {"LOSSES": {"imitation": None}}})
    distiller(batch)
    assert len(batch.boxes[2]) == 0


def test_no_hook_stays(pair):
    distiller, batch = pair()
    distiller(batch)
    models = (distiller.student, distiller.teacher.model)
    assert not [m for model in models for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_tap_behind_the_backbone_is_refused(write):
    head = "head.classification_head.cls_logits" if "RetinaNet" in Path(write()).read_text() else "rpn.head.cls_logits"
    taps = {"KD": {"TAPS": ["fpn=backbone", f"score={head}"], "LOSSES": {"pkd": {"TAP": "score"}}}}
    with pytest.raises(ConfigError, match=r"^KD.TAPS: the tap score is \S+, but with KD.UNLABELED a detector's heads"):
        runs.distiller(write(taps, "behind"))


@pytest.mark.parametrize("key", ["DATASETS", "IMS_PER_BATCH"])
def test_half_of_the_keys_is_refused(write, key):
    half = {"KD": {"UNLABELED": {key: [] if key == "DATASETS" else 0}}}
    with pytest.raises(ConfigError, match="KD.UNLABELED.IMS_PER_BATCH is [01], expected both or none$"):
        runs.distiller(write(half))


def test_a_run_takes_them_and_leaves_the_student(write, tmp_path):
    config = write({"SOLVER": {"MAX_ITER": 2, "STEPS": []}})
    runs.train(config)
    assert "backbone.fpn.inner_blocks.0.0.weight" in runs.checkpoint(tmp_path / "out")["model"]


def test_instances_with_masks_take_them_too(tmp_path, data, rcnn_teacher):
    more = {"DATASETS": {"CUSTOM": {"more": {"UNLABELED": str(data / "images")}}}}
    own = runs.merged(runs.merged(UNLABELED, more), {"MODEL": {"META_ARCHITECTURE": "MaskRCNN"}})
    config = tiny.write_config(tmp_path, data, tiny.distilled(rcnn_teacher, own))
    losses = runs.distiller(config)(runs.first_batch(config))
    assert all(losses[name].isfinite() and losses[name] > 0 for name in ("loss_mask", "loss_pkd", "loss_imitation"))


def test_a_labeled_set_may_serve_without_its_labels(write):
    config = write({"KD": {"UNLABELED": {"DATASETS": ["tiny"]}}})
    assert len(runs.first_batch(config).targets) == 2


def test_a_score_below_the_teachers_own_threshold_is_refused(write):
    own = {"TEACHER": {"OPTS": [word if key % 2 == 0 else "0.05" for key, word in enumerate(ALL)]}}
    text = r"^KD.UNLABELED.SCORE_THRESH is 0.0, but the teacher finds nothing below 0.05, the threshold of its own"
    with pytest.raises(ConfigError, match=text):
        runs.distiller(write({"KD": own}))
    assert runs.distiller(write({"KD": own | {"UNLABELED": {"SCORE_THRESH": 0.05}}})).whole_teacher
