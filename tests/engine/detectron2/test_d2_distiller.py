"""The meta-architecture: any Detectron2 model beside its teacher."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import logging

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from kd2.distill import ConfigError, Distiller, TapError
from kd2.engine.detectron2 import add_d2_config, distill_cfg
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.models import own_losses
from kd2.engine.detectron2.step import run_student

from ...helpers.d2_tiny import FASTER_RCNN, RETINANET, different, distiller_of, load_config, student_of, write_config


def batch_of(cfg):
    return next(iter(train_loader(cfg)))


def test_build_model_wraps_any_detector_and_one_backward_reaches_student_and_adapters(pair):
    cfg = load_config(pair)
    model = distiller_of(cfg)
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
    distiller, after = distiller_of(cfg), torch.rand(1)
    torch.manual_seed(5)
    student, plain_after = student_of(cfg), torch.rand(1)
    assert different(distiller.student.state_dict(), student.state_dict()) == []
    assert torch.equal(after, plain_after)


@pytest.mark.parametrize("losses", [{}, {"imitation": {"WEIGHT": 0}}], ids=["empty", "weight 0"])
def test_without_active_losses_nothing_of_the_teacher_is_read(data, tmp_path, losses):
    missing = {"CONFIG_FILE": "nowhere.yaml", "WEIGHTS": "nowhere.pth"}
    model = distiller_of(load_config(write_config(tmp_path, data, {"KD": {"LOSSES": losses, "TEACHER": missing}})))
    assert model.teacher is None and len(model.losses) == 0


def test_the_config_for_build_model_is_a_copy_that_names_the_student_beside_the_distiller(retinanets):
    cfg = load_config(retinanets)
    wrapped = distill_cfg(cfg)
    assert (wrapped.MODEL.META_ARCHITECTURE, wrapped.KD.STUDENT.META_ARCHITECTURE) == ("Distiller", "RetinaNet")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.KD.STUDENT.META_ARCHITECTURE) == ("RetinaNet", "")
    assert distill_cfg(wrapped) == wrapped


def test_a_file_that_names_the_distiller_is_read_as_one_that_names_its_student(retinanets, tmp_path):
    wrapped = tmp_path / "wrapped.yaml"
    wrapped.write_text(distill_cfg(load_config(retinanets)).dump())
    found, plain = load_config(str(wrapped)), load_config(retinanets)
    assert (found.MODEL.META_ARCHITECTURE, found.KD) == ("RetinaNet", plain.KD)


def test_detectron2s_own_reader_takes_the_file_and_build_model_its_distill_cfg(retinanets):
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(retinanets)
    cfg.KD.TEACHER.CONFIG_FILE = retinanets.replace("student.yaml", "teacher.yaml")
    assert set(build_model(distill_cfg(cfg)).losses) == {"imitation"}


def test_plain_build_model_says_that_nothing_distills(retinanets, caplog):
    cfg = load_config(retinanets)
    with caplog.at_level(logging.WARNING, "kd2"):
        model = build_model(cfg)
    assert type(model).__name__ == "RetinaNet"
    (record,) = caplog.records
    assert "plain student RetinaNet, nothing distills" in record.message and "distill_cfg(cfg)" in record.message


@pytest.mark.parametrize("options", [["KD.LOSSES.imitation.WEIGHT", "0"], ["KD.LOSSES", "{}"]])
def test_plain_build_model_says_nothing_where_no_loss_counts(data, tmp_path, options, caplog):
    losses = {} if options[0] == "KD.LOSSES" else {"imitation": {"WEIGHT": 0}}
    build_model(load_config(write_config(tmp_path, data, {"KD": {"LOSSES": losses}})))
    assert not caplog.records


def test_in_eval_mode_it_is_the_student(retinanets):
    cfg = load_config(retinanets)
    model = distiller_of(cfg).eval()
    batch = [{"image": sample["image"]} for sample in batch_of(cfg)]
    with torch.no_grad():
        (ours, _), (plain, _) = model(batch), model.student(batch)
    assert torch.equal(ours["instances"].pred_boxes.tensor, plain["instances"].pred_boxes.tensor)


def test_the_state_dict_holds_no_teacher(retinanets):
    assert {name.split(".")[0] for name in distiller_of(load_config(retinanets)).state_dict()} == {"student", "losses"}


def test_the_iteration_is_the_trainers(retinanets):
    cfg = load_config(retinanets, ["KD.LOSSES.imitation.START_ITER", "3"])
    model, batch = distiller_of(cfg), batch_of(cfg)
    values = {}
    for iteration in (2, 3):
        with EventStorage(iteration):
            values[iteration] = model(batch)["loss_imitation"].item()
    assert values[2] == 0 < values[3]


def test_the_batch_info_keeps_boxes_on_the_host_in_pixels_of_the_resized_image(retinanets):
    cfg = load_config(retinanets)
    batch = batch_of(cfg)
    batch_info = distiller_of(cfg).batch_info(batch)
    assert [tuple(sample["image"].shape[1:]) for sample in batch] == batch_info.image_sizes
    assert all(side % 32 == 0 for side in batch_info.padded_size)
    for boxes, sample in zip(batch_info.boxes, batch):
        assert boxes is sample["instances"].gt_boxes.tensor and boxes.shape == (2, 4)


def test_a_teacher_of_the_other_color_order_sees_the_same_picture(retinanets):
    """BGR pixels of the student become RGB ones; the teacher's own mean and deviation apply either way."""
    batch = batch_of(load_config(retinanets))
    seen = []
    for order in ("BGR", "RGB"):
        distiller = distiller_of(load_config(retinanets, ["KD.TEACHER.OPTS", f"['INPUT.FORMAT', '{order}']"]))
        teacher = distiller.teacher.model
        handle = teacher.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        distiller.teacher_features(batch)
        handle.remove()
    mean, std = teacher.pixel_mean, teacher.pixel_std
    height, width = batch[0]["image"].shape[1:]
    bgr, rgb = [(images[0, :, :height, :width] * std + mean).round() for images in seen]
    assert torch.equal(bgr, batch[0]["image"].float())
    assert torch.equal(rgb, batch[0]["image"].flip(0).float())


def test_other_color_spaces_are_refused(retinanets):
    with pytest.raises(ConfigError, match="student 'BGR', teacher 'YUV-BT.601'"):
        distiller_of(load_config(retinanets, ["KD.TEACHER.OPTS", "['INPUT.FORMAT', 'YUV-BT.601']"]))


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
        distiller_of(cfg)(batch_of(cfg))


def test_an_unknown_student_is_named_with_its_neighbors(data, tmp_path):
    cfg = load_config(write_config(tmp_path, data, {"MODEL": {"META_ARCHITECTURE": "RetinaNe"}}))
    with pytest.raises(ConfigError, match="MODEL.META_ARCHITECTURE is 'RetinaNe'; did you mean RetinaNet"):
        distiller_of(cfg)


def test_a_loss_called_like_one_of_the_students_own_is_refused(pair):
    with pytest.raises(ConfigError, match="KD.LOSSES: loss_box_reg cannot be in the log twice: the student's own"):
        distiller_of(load_config(pair, ["KD.LOSSES.box_reg", "{'TYPE': 'mimic', 'WEIGHT': 1.0}"]))


CASCADE = {
    "MODEL": {
        "ROI_HEADS": {"NAME": "CascadeROIHeads"},
        "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True},
        "RPN": {"POST_NMS_TOPK_TRAIN": 50},
    }
}
MASKS = {"MODEL": {"MASK_ON": True, "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead"}}}


@pytest.mark.parametrize(
    "detector, changes, names",
    [
        (RETINANET, {}, ["loss_cls", "loss_box_reg"]),
        (FASTER_RCNN, {}, ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg"]),
        (FASTER_RCNN, MASKS, ["loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"]),
        (
            FASTER_RCNN,
            CASCADE,
            ["loss_rpn_cls", "loss_rpn_loc"] + [f"loss_{x}_stage{i}" for i in range(3) for x in ("cls", "box_reg")],
        ),
    ],
    ids=["RetinaNet", "Faster R-CNN", "Mask R-CNN", "Cascade R-CNN"],
)
def test_the_names_of_the_students_own_losses_are_known_before_a_step(data, tmp_path, detector, changes, names):
    cfg = load_config(write_config(tmp_path, data, changes, detector=detector))
    student = student_of(cfg)
    assert own_losses(student) == set(names)
    if not cfg.MODEL.MASK_ON:  # the tiny boxes have no outlines
        assert run_student(student, batch_of(cfg)).keys() == set(names)
