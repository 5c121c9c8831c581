"""Detectron2's students: what predicts, exported files, and Detectron2's own tracing."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
import yaml

pytest.importorskip("detectron2")

import kd2
from kd2 import cli_deploy, engine
from kd2.deploy import export, formats
from kd2.distill import ConfigError
from kd2.engine.detectron2.data import eval_loader
from kd2.engine.flow import trained_student
from kd2.runs.folder import begin

from ..helpers import d2_semantic, d2_tiny
from ..helpers.contents import different
from ..helpers.untrained_runs import write_run

MASK_RCNN = {
    "MODEL": {
        "MASK_ON": True,
        "ROI_HEADS": {"SCORE_THRESH_TEST": 0.2},
        "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16, "POOLER_RESOLUTION": 7},
    },
    "TEST": {"DETECTIONS_PER_IMAGE": 8},
}
LOW = {"MODEL": {"LAZY_OVERRIDES": ["model.test_score_thresh=0.01"]}}
TESTED = {"DATASETS": {"TEST": ["tiny"]}}
# Detectron2's own small ResNet, so that the student's config needs nothing of kd2.
PLAIN = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_retinanet_resnet_fpn_backbone"},
        "RESNETS": {
            "DEPTH": 50, "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 16, "WIDTH_PER_GROUP": 4, "NORM": "BN",
            "OUT_FEATURES": ["res3", "res4", "res5"],
        },
        "RETINANET": {"SCORE_THRESH_TEST": 0.001},
    },
    "SOLVER": {"MAX_ITER": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The tiny data set with the rectangles as masks."""
    folder = tmp_path_factory.mktemp("data")
    content = d2_tiny.write_data(folder)
    for entry in content["annotations"]:
        x, y, w, h = entry["bbox"]
        entry["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def mask_rcnn(data, tmp_path_factory):
    """The folder of a Mask R-CNN's run."""
    folder = tmp_path_factory.mktemp("mask_rcnn")
    return write_run(d2_tiny.write_config(folder, data, MASK_RCNN, TESTED, detector=d2_tiny.FASTER_RCNN))


@pytest.fixture(scope="module")
def pspnet(tmp_path_factory):
    """The folder of a PSPNet's run."""
    folder = tmp_path_factory.mktemp("pspnet")
    d2_semantic.write_semantic(folder / "pixels")
    return write_run(d2_semantic.semantic_config(folder, folder / "pixels", {"DATASETS": {"TEST": ["shapes"]}}))


def evaluated(run):
    """What Detectron2's model finds on the first sample of its own loader, and the sample."""
    experiment = engine.for_evaluation(os.path.join(run, "config.yaml"), [])
    (name,) = experiment.load_data("TEST")
    student = trained_student(experiment, os.path.join(run, "model_final.pth"), "").eval()
    batch = next(iter(eval_loader(experiment.cfg, name)))
    with torch.no_grad():
        return student(batch)[0], batch[0]


def test_a_loaded_mask_rcnn_finds_what_detectron2_finds(mask_rcnn):
    output, sample = evaluated(mask_rcnn)
    instances, model = output["instances"], kd2.load(mask_rcnn)
    (found,) = model.predict(sample["file_name"])
    assert model.classes == ["box", "bar"] and len(found["boxes"]) == len(instances) == 8
    np.testing.assert_allclose(found["boxes"], instances.pred_boxes.tensor, atol=0.01)
    np.testing.assert_allclose(found["scores"], instances.scores, atol=1e-3)
    assert ((found["masks"] >= 0.5) == instances.pred_masks.numpy()).mean() > 0.999


def test_a_loaded_segmenter_finds_what_detectron2_finds(pspnet):
    output, sample = evaluated(pspnet)
    (found,) = kd2.load(pspnet).predict(sample["file_name"])
    np.testing.assert_allclose(found["scores"], output["sem_seg"].softmax(0), atol=0.01)


@pytest.mark.parametrize("form", formats.FORMATS)
@pytest.mark.parametrize("run", ["mask_rcnn", "pspnet"])
def test_a_file_finds_what_pytorch_finds(run, form, request, tmp_path):
    for name in formats.FORMATS[form].packages:
        pytest.importorskip(name)
    path = str(tmp_path / f"student{formats.FORMATS[form].endings[0]}")
    words = ["--run", request.getfixturevalue(run), "--format", form, "--output", path, "--evaluate"]
    assert cli_deploy.run_export(cli_deploy.export_parser().parse_args(words)) == 0


@pytest.mark.parametrize("form", formats.FORMATS)
def test_two_pictures_at_once_are_refused_by_a_file(pspnet, form, tmp_path):
    for name in formats.FORMATS[form].packages:
        pytest.importorskip(name)
    path = str(tmp_path / f"student{formats.FORMATS[form].endings[0]}")
    export.prepare(pspnet, form, path).write()
    with pytest.raises(Exception, match="1|one"):
        formats.FORMATS[form].open(path)[1](np.zeros((2, 3, 48, 64), np.uint8))


@pytest.mark.parametrize("form", ["onnx", "torchscript"])
def test_a_file_finds_as_many_masks_as_a_picture_has(mask_rcnn, form, tmp_path):
    for name in formats.FORMATS[form].packages:
        pytest.importorskip(name)
    path = str(tmp_path / f"student{formats.FORMATS[form].endings[0]}")
    job = export.prepare(mask_rcnn, form, path, options=["TEST.DETECTIONS_PER_IMAGE", "100"])
    file = job.write()
    pictures = [*job.pictures(), np.zeros((64, 64, 3), np.uint8)]
    counts = [[len(side.predict(x)[0]["masks"]) for x in pictures] for side in (job.predictor, file)]
    assert counts[0] == counts[1] and len(set(counts[0])) > 1


def test_a_model_that_finds_keypoints_is_refused_by_name(data, tmp_path):
    config = d2_tiny.write_config(tmp_path, data, TESTED, detector=d2_tiny.FASTER_RCNN)
    with pytest.raises(ConfigError, match="GeneralizedRCNN with keypoints"):
        kd2.load(write_run(config, "MODEL.KEYPOINT_ON", "True"))


def test_detectron2_loads_and_traces_the_students_file_unchanged(data, tmp_path):
    """As Detectron2's own script of export does, with nothing of kd2."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.config import get_cfg
    from detectron2.export import TracingAdapter
    from detectron2.modeling import build_model

    d2_tiny.train(d2_tiny.write_config(tmp_path, data, PLAIN))
    cfg = get_cfg()
    cfg.merge_from_file(str(tmp_path / "out" / "student.yaml"))
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    image = torch.randint(0, 256, (3, 64, 96)).float()
    adapter = TracingAdapter(model, [{"image": image}])
    traced = torch.jit.trace(adapter, (image,), check_trace=False)
    other = torch.randint(0, 256, (3, 96, 64)).float()
    assert all(torch.equal(a, b) for a, b in zip(traced(other), adapter(other)))


def test_the_average_of_a_checkpoint_of_a_run_with_two_teachers_is_exported(data, tmp_path):
    changes = {"MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.5}}, "DATASETS": {"TEST": ["tiny"]}}
    further = {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": str(tmp_path / "teacher.pth")}
    config = d2_tiny.write_pair(tmp_path, data, changes, {"KD": {"TEACHERS": [further]}})
    d2_tiny.train(config)
    folder, path = tmp_path / "out", str(tmp_path / "student.pt")
    for name in ("model_final.pth", "model_0000001.pth"):
        job = export.prepare(str(folder), "torchscript", path, True, str(folder / name))
        assert job.compare(job.write()).small()
        content = torch.load(folder / name, weights_only=True)
        held = {key.removeprefix("student."): x for key, x in job.predictor.state_dict().items()}
        assert different(held, content["model"]) == [] and different(held, content["kd2"]["raw_model"]) != []


def test_a_run_in_half_precision_is_loaded_without_a_gpu(mask_rcnn, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(mask_rcnn, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["SOLVER"]["AMP"] = {"ENABLED": True, "PRECISION": "fp16"}
    begin(str(run), yaml.safe_dump(config), overwrite=False)
    assert different(kd2.load(str(run)).student.state_dict(), kd2.load(mask_rcnn).student.state_dict()) == []
