"""A detector's detections as a data set of their own."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import json
import shutil

import numpy as np
import torch

from kd2.cli_deploy import pseudo_label_parser, run_pseudo_label
from kd2.data.detection import records
from kd2.data.detection.coco import read_coco
from kd2.distill import ConfigError, DataError
from kd2.engine.lightning.detection.data import DetectionMapper
from kd2.engine.lightning.detection.models import build_detector
from kd2.engine.pseudo_labels import find_objects, write_coco

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture(scope="module")
def options(teacher):
    """Those of the trained teacher, which is sure of nothing after two iterations."""
    return ["MODEL.WEIGHTS", str(teacher / "out" / "model_final.pth"), "MODEL.RETINANET.SCORE_THRESH_TEST", "0.0"]


@pytest.fixture(scope="module")
def content(teacher, data, options):
    return find_objects(str(teacher / "teacher.yaml"), options, str(data / "images"), 0.0)[0]


def test_they_are_read_like_any_other_data_set(content, data, tmp_path):
    write_coco(content, str(tmp_path / "more.json"))
    read = read_coco("more", str(tmp_path / "more.json"), str(data / "images"))
    assert read.classes == ("box", "bar") and len(read.records) == 6
    assert sum(len(record["annotations"]) for record in read.records) > 0


def test_every_one_has_its_score_and_lies_in_its_image(content):
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    for found in content["annotations"]:
        x, y, width, height = found["bbox"]
        limits = sizes[found["image_id"]]
        assert 0 <= found["score"] <= 1 and x >= 0 and y >= 0
        assert x + width <= limits[0] + 1e-3 and y + height <= limits[1] + 1e-3


def test_small_scores_are_left_out(content, teacher, data, options):
    least = sorted(found["score"] for found in content["annotations"])[-3]
    fewer, _ = find_objects(str(teacher / "teacher.yaml"), options, str(data / "images"), least)
    assert len(fewer["annotations"]) == 3


def test_a_file_that_exists_is_kept(content, tmp_path):
    (tmp_path / "mine.json").write_text("mine")
    with pytest.raises(
        ConfigError, match="^--to .*mine.json: there is a file of that name, which is kept; give another$"
    ):
        write_coco(content, str(tmp_path / "mine.json"))
    assert (tmp_path / "mine.json").read_text() == "mine"


def test_names_in_another_number_are_refused(teacher, data, options):
    with pytest.raises(
        ConfigError, match="^MODEL.RETINANET.NUM_CLASSES: the model finds 2 classes, known .* of 1: box;"
    ):
        find_objects(str(teacher / "teacher.yaml"), options, str(data / "images"), 0.0, ["box"])


def test_without_weights_nothing_is_found(teacher, data):
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS is empty, expected the checkpoint of the model that finds"):
        find_objects(str(teacher / "teacher.yaml"), [], str(data / "images"), 0.5)


def test_the_content_is_plain_json(content):
    assert json.loads(json.dumps(content)) == content


@pytest.mark.parametrize("least", [-0.1, 1.5, float("nan")])
def test_a_score_that_is_none_is_refused(teacher, data, options, least):
    with pytest.raises(ConfigError, match=r"^--score is .*, expected a number in \[0, 1\]"):
        find_objects(str(teacher / "teacher.yaml"), options, str(data / "images"), least)


def test_a_score_that_the_evaluation_does_not_reach_is_refused(teacher, data, options):
    with pytest.raises(ConfigError, match="^--score is 0.01, but MODEL.RETINANET.SCORE_THRESH_TEST is 0.05: .*; lower"):
        find_objects(str(teacher / "teacher.yaml"), options[:2], str(data / "images"), 0.01)


def test_a_name_that_stands_twice_is_refused(teacher, data, options):
    with pytest.raises(ConfigError, match="^the names of the model's classes are a, a, expected each once"):
        find_objects(str(teacher / "teacher.yaml"), options, str(data / "images"), 0.0, ["a", "a"])


def test_a_file_that_could_not_be_written_is_refused_before_the_model_runs(tmp_path):
    (tmp_path / "a.json").touch()
    for name, words in (("a.json", "which is kept"), ("a.json/b.json", "--to: the folder .* is not writable")):
        words_of_command = ["--config-file", "absent.yaml", "--images", str(tmp_path), "--to", str(tmp_path / name)]
        with pytest.raises(ConfigError, match=words):
            run_pseudo_label(pseudo_label_parser().parse_args(words_of_command))


def test_a_picture_that_cannot_be_read_is_named_and_left_out(content, teacher, data, options, tmp_path, capsys):
    images = tmp_path / "images"
    shutil.copytree(data / "images", images)
    whole = (images / "1.png").read_bytes()
    (images / "1.png").write_bytes(whole[: len(whole) // 2])  # its header is good
    (images / "2.jpg").write_text("no picture")
    words = ["--config-file", str(teacher / "teacher.yaml"), "--images", str(images), "--score", "0.0"]
    words += ["--to", str(tmp_path / "more.json"), *options]
    assert run_pseudo_label(pseudo_label_parser().parse_args(words)) == 1
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in told] == [["error", str(images / name)] for name in ("1.png", "2.jpg")]
    found = json.loads((tmp_path / "more.json").read_text())
    assert [image["file_name"] for image in found["images"]] == ["0.png", "2.png", "3.png", "4.png", "5.png"]
    number = {image["file_name"]: image["id"] for image in content["images"]}["5.png"]
    wanted = [x["bbox"] for x in content["annotations"] if x["image_id"] == number]
    assert [x["bbox"] for x in found["annotations"] if x["image_id"] == found["images"][-1]["id"]] == wanted


def test_a_folder_of_nothing_but_broken_pictures_is_refused(teacher, options, tmp_path):
    (tmp_path / "a.jpg").write_text("no picture")
    with pytest.raises(DataError, match="none of its 1 images can be read: .*a.jpg: not a readable image"):
        find_objects(str(teacher / "teacher.yaml"), options, str(tmp_path), 0.5)


MASK_RCNN = {
    "MODEL": {"META_ARCHITECTURE": "MaskRCNN", "ROI_HEADS": {"SCORE_THRESH_TEST": 0.0}},
    "TEST": {"DETECTIONS_PER_IMAGE": 10},
}


@pytest.fixture(scope="module", params=["torchvision", "detectron2"])
def masked(request, tmp_path_factory, data):
    """A Mask R-CNN with drawn weights: its config, and how to find objects when ``bias`` is added to its masks."""
    folder = tmp_path_factory.mktemp(request.param)
    changes = runs.merged(MASK_RCNN, {"MODEL": {"CONVENTIONS": request.param}})
    config = tiny.write_config(folder, data, changes)

    def find(bias: list[float]):
        torch.manual_seed(0)
        model = build_detector(tiny.config(changes))
        torch.nn.init.zeros_(model.roi_heads.mask_predictor.mask_fcn_logits.weight)
        model.roi_heads.mask_predictor.mask_fcn_logits.bias.data = torch.tensor(bias)
        torch.save(model.state_dict(), folder / "model.pth")
        words = ["MODEL.WEIGHTS", str(folder / "model.pth")]
        return find_objects(config, words, str(data / "images"), 0.0, ["box", "bar"])[0]

    return config, find


def test_masks_are_read_and_trained_on(masked, data, tmp_path):
    config, find = masked
    found = find([9.0, 9.0, 9.0])["annotations"]
    assert found and all(x["area"] > 0 and isinstance(x["segmentation"]["counts"], str) for x in found)
    write_coco(find([9.0, 9.0, 9.0]), str(tmp_path / "more.json"))
    more = {"more": {"JSON": str(tmp_path / "more.json"), "IMAGES": str(data / "images")}}
    read = records.load("more", more)
    objects = [x for record in read.records for x in record["annotations"]]
    assert len(objects) == len(found) and all("segmentation" in x for x in objects)
    cfg = runs.experiment(config).cfg
    _, target, _ = DetectionMapper(cfg, training=True, masks=True)(read.records[0])
    assert len(target["masks"]) and target["masks"].flatten(1).any(1).all()


def test_a_detection_whose_mask_has_no_pixel_is_left_out(masked, caplog):
    _, find = masked
    every = find([9.0, 9.0, 9.0])["annotations"]
    solid = find([9.0, 9.0, -9.0])["annotations"]  # of background, box and bar: bars have no pixel
    assert [x["bbox"] for x in solid] == [x["bbox"] for x in every if x["category_id"] == 1]
    assert [x["id"] for x in solid] == list(range(1, len(solid) + 1)) and np.all([x["area"] > 0 for x in solid])
    told = f"{len(every) - len(solid)} of {len(every)} detections have a mask without a pixel, left out"
    assert [r.getMessage() for r in caplog.records if "pixel" in r.getMessage()] == [told]


def test_an_object_without_a_pixel_in_its_mask_is_not_trained_on(masked, data, tmp_path):
    """In a file of anybody's."""
    config, find = masked
    content = find([9.0, 9.0, 9.0])
    for annotation in content["annotations"]:
        height, width = annotation["segmentation"]["size"]
        annotation["segmentation"]["counts"] = [height * width]
    write_coco(content, str(tmp_path / "more.json"))
    more = {"more": {"JSON": str(tmp_path / "more.json"), "IMAGES": str(data / "images")}}
    _, target, _ = DetectionMapper(runs.experiment(config).cfg, True, True)(records.load("more", more).records[0])
    assert len(target["boxes"]) == 0
