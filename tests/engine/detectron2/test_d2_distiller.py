"""The meta-architecture: any Detectron2 model beside its teacher."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from ...helpers.d2_tiny import different, write_config
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from kd2.engine.detectron2 import Distiller
from kd2.engine.detectron2.config import load_config
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.distiller import build_parts
from kd2.engine.detectron2.models import build_student
from kd2.engine.detectron2.teacher import flip_colors
from kd2.distill import ConfigError, TapError


def batch_of(cfg):
    return next(iter(train_loader(cfg)))


def test_build_model_wraps_any_detector_and_one_backward_reaches_student_and_adapters(pair):
    cfg = load_config(pair)
    model = build_model(cfg)
    assert isinstance(model, Distiller) and model.training
    losses = model(batch_of(cfg))
    assert losses.keys() > {"loss_imitation"}
    assert all(loss.dtype == torch.float32 and loss.dim() == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.losses.parameters())
    assert all(p.grad is None for p in model.teacher.model.parameters())


def test_student_and_random_stream_start_as_in_plain_training(pair):
    cfg = load_config(pair)
    torch.manual_seed(5)
    distiller, after = build_model(cfg), torch.rand(1)
    torch.manual_seed(5)
    student, plain_after = build_student(cfg), torch.rand(1)
    assert different(distiller.student.state_dict(), student.state_dict()) == []
    assert torch.equal(after, plain_after)


@pytest.mark.parametrize("losses", [{}, {"imitation": {"WEIGHT": 0}}], ids=["empty", "weight 0"])
def test_without_active_losses_nothing_of_the_teacher_is_read(data, tmp_path, losses):
    missing = {"CONFIG_FILE": "nowhere.yaml", "WEIGHTS": "nowhere.pth"}
    model = build_model(load_config(write_config(tmp_path, data, {"KD": {"LOSSES": losses, "TEACHER": missing}})))
    assert model.teacher is None and len(model.losses) == 0


def test_in_eval_mode_it_is_the_student(retinanets):
    cfg = load_config(retinanets)
    model = build_model(cfg).eval()
    batch = [{"image": sample["image"]} for sample in batch_of(cfg)]
    with torch.no_grad():
        (ours, _), (plain, _) = model(batch), model.student(batch)
    assert torch.equal(ours["instances"].pred_boxes.tensor, plain["instances"].pred_boxes.tensor)


def test_the_state_dict_holds_no_teacher(retinanets):
    assert {name.split(".")[0] for name in build_model(load_config(retinanets)).state_dict()} == {"student", "losses"}


def test_the_iteration_is_the_trainers(retinanets):
    cfg = load_config(retinanets, ["KD.LOSSES.imitation.START_ITER", "3"])
    model, batch = build_model(cfg), batch_of(cfg)
    values = {}
    for iteration in (2, 3):
        with EventStorage(iteration):
            values[iteration] = model(batch)["loss_imitation"].item()
    assert values[2] == 0 < values[3]


def test_the_scene_keeps_boxes_on_the_host_in_pixels_of_the_resized_image(retinanets):
    cfg = load_config(retinanets)
    batch = batch_of(cfg)
    batch_info = build_model(cfg).batch_info(batch)
    assert [tuple(sample["image"].shape[1:]) for sample in batch] == batch_info.image_sizes
    assert all(side % 32 == 0 for side in batch_info.padded_size)
    for boxes, sample in zip(batch_info.boxes, batch):
        assert boxes is sample["instances"].gt_boxes.tensor and boxes.shape == (2, 4)


def test_a_teacher_of_the_other_color_order_sees_the_same_picture(retinanets):
    """BGR pixels of the student become RGB ones; the teacher's own mean and deviation apply either way."""
    batch = batch_of(load_config(retinanets))
    seen = []
    for order in ("BGR", "RGB"):
        parts, guide = build_parts(load_config(retinanets, ["KD.TEACHER.OPTS", f"['INPUT.FORMAT', '{order}']"]))
        distiller = Distiller(**parts)
        handle = guide.model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        distiller.teacher_features(batch)
        handle.remove()
    mean, std = guide.model.pixel_mean, guide.model.pixel_std
    height, width = batch[0]["image"].shape[1:]
    bgr, rgb = [(images[0, :, :height, :width] * std + mean).round() for images in seen]
    assert torch.equal(bgr, batch[0]["image"].float())
    assert torch.equal(rgb, batch[0]["image"].flip(0).float())


def test_other_color_spaces_are_refused():
    assert not flip_colors("BGR", "BGR") and flip_colors("RGB", "BGR")
    with pytest.raises(ConfigError, match="student 'RGB', teacher 'YUV-BT.601'"):
        flip_colors("RGB", "YUV-BT.601")


def test_a_tap_before_an_in_place_activation_is_named(data, tmp_path, retinanets):
    """Detectron2's ResNet stem overwrites the output of its convolution."""
    resnet = {
        "MODEL": {
            "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone"},
            "RESNETS": {"DEPTH": 18, "RES2_OUT_CHANNELS": 64, "OUT_FEATURES": ["res3", "res4", "res5"], "NORM": "BN"},
        },
        "KD": {
            "STUDENT": {"TAPS": ["fpn=backbone", "early=backbone.bottom_up.stem.conv1"]},
            "LOSSES": {"imitation": {"WEIGHT": 0.1}},
            "TEACHER": {"CONFIG_FILE": retinanets, "OPTS": ["MODEL.FPN.OUT_CHANNELS", 32], "ALLOW_PARTIAL": True},
        },
    }
    weights = {"KD": {"TEACHER": {"WEIGHTS": retinanets.replace("student.yaml", "teacher.pth")}}}
    cfg = load_config(write_config(tmp_path, data, resnet, weights))
    with pytest.raises(TapError, match="tap 'early' at 'backbone.bottom_up.stem.conv1' was changed in place"):
        build_model(cfg)(batch_of(cfg))


def test_an_unknown_student_is_named_with_its_neighbors(data, tmp_path):
    cfg = load_config(write_config(tmp_path, data, {"KD": {"STUDENT": {"META_ARCHITECTURE": "RetinaNe"}}}))
    with pytest.raises(ConfigError, match="KD.STUDENT.META_ARCHITECTURE is 'RetinaNe'; did you mean RetinaNet"):
        build_model(cfg)
