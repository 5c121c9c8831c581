"""Student and teacher on one batch."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_segmentation as tiny

UNLABELED = {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1}}}


@pytest.fixture
def pair(tmp_path, semantic_data, psp_teacher):
    """The distiller in train mode from changes to the config, and its first batch."""

    def pair_with(changes: dict | None = None):
        config = tiny.write_config(tmp_path, semantic_data, tiny.distilled(psp_teacher, changes))
        return runs.distiller(config), runs.first_batch(config)

    return pair_with


def test_losses_of_the_task_and_of_every_loss(pair):
    distiller, batch = pair()
    losses = distiller(batch)
    assert set(losses) == {"loss_sem_seg", "loss_sem_seg_aux", "loss_pixelwise", "loss_pairwise"}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_the_batch_info_knows_labels_sizes_and_normalized_images(pair):
    distiller, batch = pair()
    batch_info = distiller.placed_batch_info(batch)
    assert batch_info.labels is batch.labels and batch_info.padded_size == (48, 48)
    assert batch_info.image_sizes == [(x.shape[1], x.shape[2]) for x in batch.images]
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
    assert torch.allclose(batch_info.images()[0], (batch.images[0] - mean) / std)


def test_a_teacher_normalizes_its_own_way_and_sees_its_own_color_order(pair, semantic_data, tmp_path):
    own = {"INPUT": {"FORMAT": "BGR"}, "MODEL": {"PIXEL_MEAN": [1.0, 2.0, 3.0], "PIXEL_STD": [1.0, 1.0, 2.0]}}
    wide = {"MODEL": {"SEM_SEG_HEAD": {"CONVS_DIM": 24}}}
    path = tiny.write_config(tmp_path, semantic_data, runs.merged(wide, own), "bgr")
    distiller, batch = pair({"KD": {"TEACHER": {"CONFIG_FILE": path}}})
    seen = []
    distiller.teacher.model.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    distiller(batch)
    mean, std = (torch.tensor(x).reshape(3, 1, 1) for x in ([1.0, 2.0, 3.0], [1.0, 1.0, 2.0]))
    expected = (batch.images[0].flip(0) - mean) / std
    assert torch.allclose(seen[0][0], expected)


def test_a_batch_without_labeled_pixels_is_an_exact_zero_for_the_task_alone(pair):
    distiller, batch = pair()
    batch.labels.fill_(255)
    losses = distiller(batch)
    sum(losses.values()).backward()
    assert losses["loss_sem_seg"] == losses["loss_sem_seg_aux"] == 0 and losses["loss_pixelwise"] > 0
    assert all(p.grad.isfinite().all() for p in distiller.student.parameters() if p.grad is not None)


def test_unlabeled_images_count_in_the_losses_and_not_in_the_task_loss(pair):
    distiller, batch = pair(UNLABELED)
    distiller.student.eval()  # no dropout, no batch statistics; the distiller still trains
    before = distiller(batch)
    batch.images[2] = 255 - batch.images[2]
    after = distiller(batch)
    assert torch.equal(before["loss_sem_seg"], after["loss_sem_seg"])
    assert not torch.equal(before["loss_pixelwise"], after["loss_pixelwise"])


def test_the_weights_of_the_task_loss(tmp_path, semantic_data):
    head = {"MODEL": {"SEM_SEG_HEAD": {"LOSS_WEIGHT": 2.0, "AUX_WEIGHT": 0.2}}}
    plain = tiny.write_config(tmp_path, semantic_data)
    heavy = tiny.write_config(tmp_path, semantic_data, head, "heavy")
    losses = []
    for config in (plain, heavy):
        distiller = runs.distiller(config)
        torch.manual_seed(0)
        losses.append(distiller(runs.first_batch(config)))
    assert losses[1]["loss_sem_seg"].item() == pytest.approx(2 * losses[0]["loss_sem_seg"].item())
    assert losses[1]["loss_sem_seg_aux"].item() == pytest.approx(losses[0]["loss_sem_seg_aux"].item())


def test_a_teacher_with_other_classes_is_refused(pair):
    text = "^MODEL.SEM_SEG_HEAD.NUM_CLASSES of the teacher is 6, MODEL.SEM_SEG_HEAD.NUM_CLASSES of the student is 5"
    other = {"OPTS": ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", "6"], "ALLOW_PARTIAL": True}
    with pytest.raises(ConfigError, match=text):
        pair({"KD": {"TEACHER": other}})


def test_a_detector_is_no_teacher_of_a_segmentation_network(pair, tmp_path):
    path = tmp_path / "detector.yaml"
    path.write_text("FRAMEWORK: torchvision\nMODEL: {META_ARCHITECTURE: RetinaNet}\n")
    with pytest.raises(ConfigError, match="^MODEL.META_ARCHITECTURE is 'RetinaNet'; .*FPN"):
        pair({"KD": {"TEACHER": {"CONFIG_FILE": str(path)}}})


def test_score_maps_below_the_critics_smallest_size_are_refused(pair):
    holistic = {"KD": {"LOSSES": {"holistic": {"TAP": "score", "WEIGHT": 0.1}}}}
    distiller, batch = pair(holistic)
    with pytest.raises(ConfigError, match="^KD.LOSSES.holistic: .*64"):
        distiller(batch)
