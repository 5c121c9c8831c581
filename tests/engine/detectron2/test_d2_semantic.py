"""Segmentation networks in Detectron2: heads, distillation, batches without labels, windows."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from detectron2.utils.events import EventStorage

from kd2.distill import ConfigError
from kd2.engine.detectron2 import windows as windows_module
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.windows import Windowed
from kd2.networks.window import predict

from ...helpers.d2_plain import plain_weights
from ...helpers.d2_semantic import LOSSES, NETWORKS, SEM_SEG_FPN, semantic_config
from ...helpers.d2_tiny import different, distiller_of, load_config, previous, save_model, student_of, train, weights

OPTIONS = ["DATASETS.TEST", "['shapes']", "TEST.EVAL_PERIOD", "2"]


def batch_of(cfg) -> list[dict]:
    return next(iter(train_loader(cfg)))


def blank(batch: list[dict]) -> list[dict]:
    """The batch with every pixel ignored."""
    return [{**sample, "sem_seg": torch.full_like(sample["sem_seg"], 255)} for sample in batch]


@pytest.fixture(params=NETWORKS)
def network(request, pixels, tmp_path):
    """The config of a student with each head."""
    return load_config(semantic_config(tmp_path, pixels, NETWORKS[request.param]))


def test_every_head_trains_and_gives_scores_of_the_wanted_size(network):
    model = distiller_of(network)
    losses = model(batch_of(network))
    assert "loss_sem_seg" in losses and all(loss.item() > 0 for loss in losses.values())
    sum(losses.values()).backward()
    with torch.no_grad():
        (found,) = model.eval()([{"image": torch.zeros(3, 50, 70, dtype=torch.uint8), "height": 25, "width": 35}])
    assert found["sem_seg"].shape == (network.MODEL.SEM_SEG_HEAD.NUM_CLASSES, 25, 35)


def test_a_batch_without_labels_gives_exact_zeros_and_finite_gradients(network):
    model = distiller_of(network)
    losses = model(blank(batch_of(network)))
    assert all(loss.item() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_only_pspnet_has_an_auxiliary_loss(network):
    auxiliary = {"loss_sem_seg_aux"} if network.MODEL.SEM_SEG_HEAD.NAME == "PSPNetHead" else set()
    assert set(distiller_of(network)(batch_of(network))) == {"loss_sem_seg"} | auxiliary


def test_without_a_weight_there_is_no_auxiliary_head(pixels, tmp_path):
    options = ["MODEL.SEM_SEG_HEAD.AUX_WEIGHT", "0.0", "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res5']"]
    cfg = load_config(semantic_config(tmp_path, pixels), options)
    assert set(distiller_of(cfg)(batch_of(cfg))) == {"loss_sem_seg"}


def test_the_batch_info_has_labels_and_images_of_the_padded_batch(pspnets):
    cfg = load_config(pspnets, ["INPUT.CROP.ENABLED", "False", "DATALOADER.ASPECT_RATIO_GROUPING", "False"])
    model, batch = distiller_of(cfg), batch_of(cfg)
    seen = []
    handle = model.student.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with EventStorage(0):
        model.student(batch)
    handle.remove()
    batch_info = model.batch_info(batch)
    assert torch.equal(batch_info.images(), seen[0]) and batch_info.images().shape[2:] == batch_info.padded_size
    for labels, sample in zip(batch_info.labels, batch):
        height, width = sample["sem_seg"].shape
        assert torch.equal(labels[:height, :width], sample["sem_seg"])
        assert (labels[height:] == 255).all() and (labels[:, width:] == 255).all()


def test_the_probe_has_the_crops_size(pspnets):
    assert distiller_of(load_config(pspnets)).student_taps.specs["score"][0].size == (6, 8)


def test_another_ignored_value_becomes_255_in_the_batch_info(pspnets):
    model, batch = distiller_of(load_config(pspnets)), batch_of(load_config(pspnets))
    expected = model.batch_info(batch).labels
    model.student.sem_seg_head.ignore_value = 200
    changed = [{**x, "sem_seg": torch.where(x["sem_seg"] == 255, 200, x["sem_seg"])} for x in batch]
    assert torch.equal(model.batch_info(changed).labels, expected)


def test_unlabeled_images_reach_the_losses_alone(pspnets):
    model, batch = distiller_of(load_config(pspnets)), batch_of(load_config(pspnets))
    losses = model(blank(batch))
    assert losses["loss_sem_seg"] == 0 < losses["loss_pixelwise"]


def test_losses_that_skip_ignored_pixels_are_an_exact_zero_without_any_label(pspnets):
    cfg = load_config(pspnets, ["KD.LOSSES.pixelwise.SKIP_IGNORED", "True"])
    losses = distiller_of(cfg)(blank(batch_of(cfg)))
    assert losses["loss_pixelwise"] == 0 and all(loss.isfinite() for loss in losses.values())


def test_a_resumed_run_ends_with_the_weights_of_the_whole_run(pspnets, tmp_path):
    unlabeled = ["KD.UNLABELED.DATASETS", "['more']", "KD.UNLABELED.IMS_PER_BATCH", "1"]
    options = ["OUTPUT_DIR", str(tmp_path), *unlabeled, *OPTIONS, "SOLVER.LR_SCHEDULER_NAME", "WarmupPolyLR"]
    results = train(pspnets, *options)
    assert {"sem_seg/mIoU", "sem_seg/fwIoU", "sem_seg/IoU-box", "sem_seg/mACC", "sem_seg/pACC"} <= results.keys()
    whole = weights(tmp_path)
    previous(tmp_path)
    torch.manual_seed(12345)
    train(pspnets, *options, resume=True)
    assert different(weights(tmp_path), whole) == []


def test_weight_0_equals_plain_training_bit_for_bit(pspnets, tmp_path):
    """On whole images: Detectron2's mapper crops before it resizes, that of pixel classes after."""
    whole = ["INPUT.CROP.ENABLED", "False", "OUTPUT_DIR"]
    expected = plain_weights(load_config(pspnets, [*whole, str(tmp_path / "theirs")]))
    off = [word for name in LOSSES for word in (f"KD.LOSSES.{name}.WEIGHT", "0.0")]
    train(pspnets, *off, *whole, str(tmp_path / "ours"))
    assert different(weights(tmp_path / "ours"), expected) == []


def test_a_map_below_the_critics_smallest_is_named_by_training(pspnets, tmp_path):
    with pytest.raises(ConfigError, match="KD.LOSSES.holistic: .*64"):
        train(pspnets, "OUTPUT_DIR", str(tmp_path), "KD.LOSSES.holistic.ENLARGE", "1")


def test_a_teacher_with_other_classes_is_refused(pspnets):
    options = ["KD.TEACHER.OPTS", "['MODEL.SEM_SEG_HEAD.NUM_CLASSES', 5]"]
    with pytest.raises(ConfigError, match="MODEL.SEM_SEG_HEAD.NUM_CLASSES of the teacher is 5, .* of the student is 3"):
        distiller_of(load_config(pspnets, options))


def test_a_teacher_of_another_kind(pixels, tmp_path):
    """Detectron2's SemSegFPN teaches; its scores have stride 4, the student's stride 8."""
    save_model(load_config(semantic_config(tmp_path, pixels, SEM_SEG_FPN, name="teacher")), tmp_path / "teacher.pth")
    taps = ["score=sem_seg_head.predictor"]
    source = {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": str(tmp_path / "teacher.pth"), "TAPS": taps}
    losses = {"pixelwise": LOSSES["pixelwise"] | {"RESIZE": "teacher"}}
    cfg = load_config(semantic_config(tmp_path, pixels, {"KD": {"TEACHER": source, "LOSSES": losses}}))
    assert distiller_of(cfg)(batch_of(cfg))["loss_pixelwise"] > 0


@pytest.fixture
def student(pixels, tmp_path):
    return student_of(load_config(semantic_config(tmp_path, pixels))).eval()


def test_one_window_over_the_whole_image_is_plain_inference(student):
    batch = [{"image": torch.randint(0, 255, (3, 48, 64), dtype=torch.uint8), "height": 96, "width": 128}]
    with torch.no_grad():
        (plain,), (found,) = student(batch), Windowed(student, (48, 64), (8, 8))(batch)
    torch.testing.assert_close(found["sem_seg"], plain["sem_seg"])


def test_windows_are_what_the_student_sees_at_evaluation(student, pspnets, tmp_path, monkeypatch):
    torch.save({"model": student.state_dict()}, tmp_path / "student.pth")
    options = [*OPTIONS, "MODEL.WEIGHTS", str(tmp_path / "student.pth"), "OUTPUT_DIR", str(tmp_path)]
    windows = ["TEST.WINDOW.SIZE", "[32, 32]", "TEST.WINDOW.STRIDE", "[16, 24]"]
    seen = []

    def predict_and_tell(network, images, window, stride):
        seen.append((window, stride))
        return predict(network, images, window, stride)

    monkeypatch.setattr(windows_module, "predict", predict_and_tell)
    assert "sem_seg/mIoU" in train(pspnets, *options, *windows, eval_only=True)
    assert seen == [((32, 32), (16, 24))] * 4


def test_windows_are_refused_for_a_detector(retinanets):
    with pytest.raises(ConfigError, match="TEST.WINDOW.SIZE is given, but RetinaNet does not read it"):
        train(retinanets, "TEST.WINDOW.SIZE", "[32, 32]", "TEST.WINDOW.STRIDE", "[32, 32]")
