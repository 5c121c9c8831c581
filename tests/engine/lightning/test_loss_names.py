"""The names of losses in the log."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import lightning

from kd2.distill import ConfigError

from ...helpers import lightning_runs as runs
from ...helpers import tiny_classification, tiny_detection, tiny_segmentation


def refused(config: str, name: str) -> None:
    text = f"^KD.LOSSES: loss_{name} cannot be in the log twice: the student's own loss is called so"
    with pytest.raises(ConfigError, match=text):
        runs.distiller(config)


@pytest.mark.parametrize("name", ["classification", "bbox_regression"])
def test_a_loss_called_like_a_detectors_own_is_refused(tmp_path, data, teacher, name):
    losses = {"KD": {"LOSSES": {name: {"TYPE": "imitation"}}}}
    refused(tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher, losses)), name)


@pytest.mark.parametrize("name", ["objectness", "box_reg"])
def test_a_loss_called_like_an_rcnns_own_is_refused(tmp_path, data, rcnn_teacher, name):
    changes = runs.merged(tiny_detection.FASTER_RCNN, {"KD": {"LOSSES": {name: {"TYPE": "imitation"}}}})
    refused(tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(rcnn_teacher, changes)), name)


@pytest.mark.parametrize("name", ["sem_seg", "sem_seg_aux"])
def test_a_loss_called_like_a_segmentation_networks_own_is_refused(tmp_path, semantic_data, psp_teacher, name):
    losses = {"KD": {"LOSSES": {name: {"TYPE": "pixelwise", "TAP": "score"}}}}
    changes = tiny_segmentation.distilled(psp_teacher, losses)
    refused(tiny_segmentation.write_config(tmp_path, semantic_data, changes), name)


def test_a_loss_called_like_a_classifiers_own_is_refused(tmp_path, pictures, class_teacher):
    losses = {"KD": {"LOSSES": {"cls": {"TYPE": "logits", "TAP": "logits"}}}}
    changes = tiny_classification.distilled(class_teacher, losses)
    refused(tiny_classification.write_config(tmp_path, pictures, changes), "cls")


class Names(lightning.Callback):
    """The names of the losses of every step."""

    def __init__(self):
        self.steps = []

    def on_train_start(self, trainer, pl_module):
        pl_module.distiller.register_forward_hook(lambda _module, _inputs, losses: self.steps.append(set(losses)))


def test_names_stay_while_a_loss_is_inactive(tmp_path, semantic_data, psp_teacher):
    """Before its start, behind its stop, and with more than one name for a loss."""
    holistic = {"TAP": "score", "WEIGHT": 0.1, "ENLARGE": 11, "WIDTH": 2, "START_ITER": 1, "STOP_ITER": 3}
    changes = tiny_segmentation.distilled(psp_teacher, {"KD": {"LOSSES": {"holistic": holistic}}})
    names = Names()
    runs.train(tiny_segmentation.write_config(tmp_path, semantic_data, changes), callbacks=(names,))
    own = {"loss_sem_seg", "loss_sem_seg_aux"}
    distilled = {"loss_pixelwise", "loss_pairwise", "loss_holistic_student", "loss_holistic_critic"}
    assert names.steps == [own | distilled] * 4
