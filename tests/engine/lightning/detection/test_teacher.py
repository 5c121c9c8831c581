"""The teacher: its file, its weights, its colors."""

import urllib.error
import urllib.request

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2 import engine
from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture
def weights(teacher):
    """The teacher's weights, to be changed and saved elsewhere."""
    return torch.load(teacher / "out" / "model_final.pth", weights_only=True)["model"]


@pytest.fixture
def batch(tmp_path, data):
    return runs.first_batch(tiny.write_config(tmp_path, data))


def backbone_of(weights):
    """What a teacher keeps whose taps lie in its backbone."""
    return {name: x for name, x in weights.items() if name.startswith("backbone.")}


def test_a_checkpoint_of_training_serves_as_teacher(build, weights):
    assert runs.same(build().teacher.model.state_dict(), backbone_of(weights)) == []


def test_a_bare_state_dict_serves_as_teacher(build, weights, tmp_path):
    torch.save(weights, tmp_path / "bare.pth")
    own = build("KD.TEACHER.WEIGHTS", str(tmp_path / "bare.pth")).teacher.model.state_dict()
    assert runs.same(own, backbone_of(weights)) == []


def test_the_teacher_stays_in_eval_mode(build):
    assert not any(module.training for module in build().train().teacher.model.modules())


def test_the_teacher_has_no_gradients(build):
    assert not any(p.requires_grad for p in build().teacher.model.parameters())


def test_nothing_of_the_teacher_is_trained_or_saved(build):
    distiller = build()
    own = {id(x) for x in distiller.teacher.model.state_dict(keep_vars=True).values()}
    assert not any(id(x) in own for x in [*distiller.parameters(), *distiller.state_dict(keep_vars=True).values()])


def test_a_step_leaves_the_teacher_as_it_was(build, weights, batch):
    distiller = build()
    sum(distiller(batch).values()).backward()
    assert runs.same(distiller.teacher.model.state_dict(), backbone_of(weights)) == []


def test_the_teacher_sees_the_batch_in_the_size_that_the_student_sees(build, tmp_path, data):
    """Its own config tests at 64 pixels."""
    sizes = ["INPUT.MIN_SIZE_TRAIN", "[128]", "INPUT.MAX_SIZE_TRAIN", "256"]
    batch = runs.first_batch(tiny.write_config(tmp_path, data), *sizes)
    distiller = build()
    _, student = distiller.student_features(batch)
    assert [x.shape[2:] for x in distiller.teacher_features(batch)["fpn"]] == [x.shape[2:] for x in student["fpn"]]


def test_a_bgr_teacher_sees_flipped_colors(build, weights, batch, tmp_path):
    """The same teacher, written down for BGR: first convolution, mean and deviation reversed."""
    expected = build().teacher_features(batch)["fpn"]
    stem = "backbone.body.conv1.0.weight"
    torch.save(weights | {stem: weights[stem].flip(1)}, tmp_path / "bgr.pth")
    mean, deviation = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
    reverse = ["INPUT.FORMAT", "BGR", "MODEL.PIXEL_MEAN", mean, "MODEL.PIXEL_STD", deviation]
    bgr = build("KD.TEACHER.WEIGHTS", str(tmp_path / "bgr.pth"), "KD.TEACHER.OPTS", repr([str(x) for x in reverse]))
    torch.testing.assert_close(bgr.teacher_features(batch)["fpn"], expected, rtol=1e-4, atol=1e-5)


def test_missing_weights_are_refused_with_near_names(build, teacher):
    text = r"^KD.TEACHER.WEIGHTS: no file .*model_finl.pth; did you mean model_final.pth\?$"
    with pytest.raises(ConfigError, match=text):
        build("KD.TEACHER.WEIGHTS", str(teacher / "out" / "model_finl.pth"))


def test_no_weights_are_refused(build):
    with pytest.raises(
        ConfigError,
        match="^KD.TEACHER.WEIGHTS is empty, expected a checkpoint file, a run folder, or a published name$",
    ):
        build("KD.TEACHER.WEIGHTS", "")


def test_truncated_weights_are_refused(build, teacher, tmp_path):
    (tmp_path / "short.pth").write_bytes((teacher / "out" / "model_final.pth").read_bytes()[:5000])
    with pytest.raises(ConfigError, match="^KD.TEACHER.WEIGHTS: .*short.pth is truncated or no checkpoint"):
        build("KD.TEACHER.WEIGHTS", str(tmp_path / "short.pth"))


def test_weights_that_cannot_be_fetched_are_refused(build, monkeypatch):
    def fail(*_, **__):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(ConfigError, match="^KD.TEACHER.WEIGHTS: https://host/a.pth could not be fetched: .*no route"):
        build("KD.TEACHER.WEIGHTS", "https://host/a.pth")


def test_weights_of_another_architecture_are_refused(build, rcnn_teacher):
    text = r"^KD.TEACHER.WEIGHTS: .* does not fit the model: \d+.\d % of the weights matched; \d+ missing \(.*p6.weight"
    with pytest.raises(ConfigError, match=text):
        build("KD.TEACHER.WEIGHTS", str(rcnn_teacher / "out" / "model_final.pth"))


def test_weights_of_another_width_are_refused_with_both_shapes(build):
    with pytest.raises(ConfigError, match=r"other shape \(.*weight \(24, .*\) instead of \(16, "):
        build("KD.TEACHER.OPTS", "['MODEL.FPN.OUT_CHANNELS', '16']")


def test_weights_of_a_deeper_model_are_refused(build, weights, tmp_path):
    """Everything the teacher has is there, but the file has more: the config describes another network."""
    torch.save(weights | {"head.classification_head.conv.1.0.bias": torch.zeros(24)}, tmp_path / "deep.pth")
    text = r"100.0 % of the weights matched; 1 unexpected \(head.classification_head.conv.1.0.bias\)$"
    with pytest.raises(ConfigError, match=text):
        build("KD.TEACHER.WEIGHTS", str(tmp_path / "deep.pth"))


def partial(weights, path) -> None:
    torch.save({k: v for k, v in weights.items() if "regression_head" not in k}, path)


def test_weights_that_lack_something_are_refused(build, weights, tmp_path):
    partial(weights, tmp_path / "part.pth")
    text = r"^KD.TEACHER.WEIGHTS: .*part.pth does not fit the model: 9\d.\d % of the weights matched; 4 missing"
    with pytest.raises(ConfigError, match=text):
        build("KD.TEACHER.WEIGHTS", str(tmp_path / "part.pth"))


def test_weights_that_lack_something_pass_when_allowed(data, teacher, weights, tmp_path):
    partial(weights, tmp_path / "part.pth")
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    options = ["KD.TEACHER.WEIGHTS", str(tmp_path / "part.pth"), "KD.TEACHER.ALLOW_PARTIAL", "True"]
    with engine.dry_run(config, options) as found:
        assert found.facts["matched weights"][1].startswith("9")


def test_weights_without_any_match_are_never_allowed(build, tmp_path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="does not fit the model: 0.0 % of the weights matched"):
        build("KD.TEACHER.WEIGHTS", str(tmp_path / "other.pth"), "KD.TEACHER.ALLOW_PARTIAL", "True")


# A loss that compares classes, and a teacher of others.
LOGITS = [
    "KD.TAPS",
    "['fpn=backbone', 'cls=head.classification_head.cls_logits']",
    "KD.LOSSES.logits",
    "{'TAP': 'cls'}",
]
FIVE = ["KD.TEACHER.OPTS", "['MODEL.RETINANET.NUM_CLASSES', '5']", "KD.TEACHER.ALLOW_PARTIAL", "True"]


def test_a_teacher_with_other_classes_serves_losses_on_features(build):
    assert build(*FIVE).teacher is not None


def test_a_teacher_with_other_classes_is_refused_for_losses_on_scores(build):
    text = (
        "^MODEL.RETINANET.NUM_CLASSES of the teacher is 5, .* of the student is 2; KD.LOSSES.logits compares their cl"
    )
    with pytest.raises(ConfigError, match=text):
        build(*FIVE, *LOGITS)


def test_losses_on_scores_need_the_students_classes_in_order(build, teacher, tmp_path):
    content = torch.load(teacher / "out" / "model_final.pth", weights_only=True)
    content["kd2"]["classes"]["things"].reverse()
    torch.save(content, tmp_path / "reversed.pth")
    weights = ["KD.TEACHER.WEIGHTS", str(tmp_path / "reversed.pth")]
    text = r"^KD.LOSSES.logits compares classes: the student's data and the teacher \(KD.TEACHER.WEIGHTS\) differ in"
    with pytest.raises(ConfigError, match=text):
        build(*weights, *LOGITS)
    assert build(*weights).teacher is not None
    assert build(*weights, *LOGITS, "KD.TEACHER.CLASSES", "['box', 'bar']").teacher is not None
