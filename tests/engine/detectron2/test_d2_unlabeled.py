"""Images without labels beside the labeled ones: the losses see them, the student's heads do not."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import json
import shutil
from pathlib import Path

import torch
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.detectron2.data import train_loader
from kd2.engine.pseudo_labels import find_objects, write_coco

from ...helpers.d2_tiny import (
    DETECTORS,
    FASTER_RCNN,
    distiller_of,
    load_config,
    save_model,
    train,
    write_config,
    write_pair,
)
from .test_d2_predictions import MASK

# Teachers with random weights are sure of nothing: all that they find counts.
ALL = ["MODEL.RETINANET.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
UNLABELED = {
    "INPUT": {"MIN_SIZE_TRAIN": [64], "RANDOM_FLIP": "none"},
    "SOLVER": {"MAX_ITER": 1, "STEPS": []},
    "KD": {
        "UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1, "SCORE_THRESH": 0.0},
        "TEACHER": {"OPTS": ALL},
        "LOSSES": {"pkd": {"WEIGHT": 1.0}},
    },
}


@pytest.fixture(scope="module", params=list(DETECTORS))
def config(request, tmp_path_factory, data):
    """A student's config beside images without labels."""
    more = {"DATASETS": {"CUSTOM": {"more": {"UNLABELED": str(data / "images")}}}}
    folder = tmp_path_factory.mktemp(request.param)
    return write_pair(folder, data, UNLABELED, more, detector=DETECTORS[request.param])


@pytest.fixture(scope="module")
def pair(config):
    """The distiller, whose norm layers do not couple images, and its first batch: two labeled images and one more."""
    cfg = load_config(config)
    distiller = distiller_of(cfg).train()
    for module in distiller.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return distiller, next(iter(train_loader(cfg)))


def losses_of(distiller, batch) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # an R-CNN samples
    for module in distiller.student.modules():
        if hasattr(module, "loss_normalizer"):
            module.loss_normalizer = 100  # RetinaNet's runs along
    return distiller(batch)


def test_they_count_in_the_losses_and_not_in_the_students_own(pair):
    distiller, batch = pair
    assert ["instances" in sample for sample in batch] == [True, True, False]
    before = losses_of(distiller, batch)
    batch[2]["image"] = 255 - batch[2]["image"]
    after = losses_of(distiller, batch)
    own = [name for name in before if name not in ("loss_imitation", "loss_pkd")]
    assert len(own) >= 2 and all(torch.equal(before[name], after[name]) for name in own)
    assert not torch.equal(before["loss_pkd"], after["loss_pkd"])


def test_the_teachers_own_detections_are_their_boxes(pair):
    distiller, batch = pair
    batch = [sample | {"image": batch[2]["image"]} for sample in batch]  # of one size: the padding decides it too
    distiller.teacher_features(batch)
    with torch.no_grad():
        (found,) = distiller.teacher.model([{"image": batch[2]["image"]}])
    boxes = found["instances"].pred_boxes.tensor
    assert len(batch[2]["pseudo_boxes"]) == len(boxes) > 0
    torch.testing.assert_close(batch[2]["pseudo_boxes"], boxes, rtol=1e-4, atol=1e-3)


def test_the_model_is_as_before(pair):
    distiller, batch = pair
    distiller(batch)
    for model in (distiller.student, distiller.teacher.model):
        assert "preprocess_image" not in vars(model)
        assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_a_tap_behind_the_backbone_is_refused(config):
    head = "head.cls_score" if "RetinaNet" in config else "proposal_generator.rpn_head.objectness_logits"
    words = ["KD.TAPS", f"['fpn=backbone:p3,p4', 'score={head}']", "KD.LOSSES.pkd.TAP", "score"]
    with pytest.raises(ConfigError, match=r"^KD.TAPS: the tap score is \S+, but with KD.UNLABELED a detector's heads"):
        distiller_of(load_config(config, words))


def test_predictions_are_refused_beside_them(config):
    dense = "RetinaNet" in config
    taps, loss = (
        ("['out=head.cls_score']", "dense_kd") if dense else ("['out=roi_heads.box_predictor@vector']", "roi_kd")
    )
    words = ["KD.TAPS", taps, "KD.LOSSES", f"{{'{loss}': {{'TAP': 'out', 'WEIGHT': 1.0}}}}"]
    words += ["KD.LOSSES.pkd.WEIGHT", "0.0", "KD.LOSSES.imitation.WEIGHT", "0.0"]
    with pytest.raises(ConfigError, match=r"^KD.TAPS: the tap out is \S+, but with KD.UNLABELED a detector's heads"):
        distiller_of(load_config(config, words))


def test_a_score_below_the_teachers_own_threshold_is_refused(config):
    words = [word if key % 2 == 0 else "0.05" for key, word in enumerate(ALL)]
    own = r"^KD.UNLABELED.SCORE_THRESH is 0.0, but the teacher finds nothing below 0.05, the threshold of its own"
    with pytest.raises(ConfigError, match=own):
        distiller_of(load_config(config, ["KD.TEACHER.OPTS", str(words)]))
    least = ["KD.UNLABELED.SCORE_THRESH", "0.05"]
    assert distiller_of(load_config(config, ["KD.TEACHER.OPTS", str(words), *least])).whole_teacher


def test_a_teachers_detections_become_a_data_set(config, data, tmp_path):
    folder = Path(config).parent
    words = ["MODEL.WEIGHTS", str(folder / "teacher.pth"), *ALL]
    shutil.copytree(data / "images", tmp_path / "images")
    (tmp_path / "images" / "broken.png").write_text("no picture")
    images = str(tmp_path / "images")
    content, broken = find_objects(str(folder / "teacher.yaml"), words, images, 0.0, ["box", "bar"])
    assert len(broken) == 1 and "broken.png: not a readable image" in broken[0]
    assert [image["file_name"] for image in content["images"]] == [f"{i}.png" for i in range(6)]
    assert content["categories"] == [{"id": 1, "name": "box"}, {"id": 2, "name": "bar"}]
    first = content["annotations"][0]
    assert first["id"] == 1 and first["category_id"] in (1, 2) and 0 <= first["score"] <= 1
    assert first["area"] == pytest.approx(first["bbox"][2] * first["bbox"][3])


def test_a_run_takes_them(config, tmp_path):
    train(config, "OUTPUT_DIR", str(tmp_path))
    assert (tmp_path / "model_final.pth").exists()


@pytest.fixture(scope="module")
def masked(tmp_path_factory, data):
    """A Mask R-CNN with drawn weights: its config, and what it finds when its masks are ``bias`` a class."""
    folder = tmp_path_factory.mktemp("masked")
    config = write_config(folder, data, {"MODEL": MASK}, detector=FASTER_RCNN)
    save_model(load_config(config), folder / "model.pth")
    content = torch.load(folder / "model.pth", weights_only=True)

    def find(bias: list[float]):
        last = "roi_heads.mask_head.predictor."
        content["model"] |= {f"{last}bias": torch.tensor(bias)}
        content["model"][f"{last}weight"].zero_()
        torch.save(content, folder / "model.pth")
        words = ["MODEL.WEIGHTS", str(folder / "model.pth"), *ALL]
        return find_objects(config, words, str(data / "images"), 0.0, ["box", "bar"])[0]

    return config, find


def batch_of(config: str, content: dict, data, folder) -> list[dict]:
    """The first training batch of a config on the objects of a COCO file."""
    write_coco(content, str(folder / "more.json"))
    more = {"more": {"JSON": str(folder / "more.json"), "IMAGES": str(data / "images")}}
    words = ["DATASETS.CUSTOM", str(more), "DATASETS.TRAIN", "['more']", "DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False"]
    return next(iter(train_loader(load_config(config, words))))


def test_masks_become_a_data_set_too(masked, data, tmp_path):
    config, find = masked
    content = find([9.0, 9.0])
    assert content["annotations"] and json.loads(json.dumps(content)) == content
    assert all(x["area"] > 0 for x in content["annotations"])
    for sample in batch_of(config, content, data, tmp_path):
        assert len(sample["instances"]) and sample["instances"].gt_masks.tensor.flatten(1).any(1).all()


def test_a_detection_whose_mask_has_no_pixel_is_left_out(masked, caplog):
    _, find = masked
    every, solid = (find([9.0, bar])["annotations"] for bar in (9.0, -9.0))
    assert [x["bbox"] for x in solid] == [x["bbox"] for x in every if x["category_id"] == 1]
    told = f"{len(every) - len(solid)} of {len(every)} detections have a mask without a pixel, left out"
    assert [r.getMessage() for r in caplog.records if "pixel" in r.getMessage()] == [told]


def test_an_object_without_a_pixel_in_its_mask_is_not_trained_on(masked, data, tmp_path):
    """In a file of anybody's."""
    config, find = masked
    content = find([9.0, 9.0])
    for annotation in content["annotations"]:
        height, width = annotation["segmentation"]["size"]
        annotation["segmentation"]["counts"] = [height * width]
    assert [len(sample["instances"]) for sample in batch_of(config, content, data, tmp_path)] == [0, 0]
