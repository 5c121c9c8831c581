"""A dry run looks at a distilled step and at all that training needs."""

import json
import shutil

import pytest
import torch

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from kd2 import engine
from kd2.distill import ConfigError, DataError
from kd2.engine.preflight import loss_rows, problems

from ...helpers import tiny_detection as tiny


def test_a_loss_that_starts_later_counts_in_the_step_of_a_dry_run(tmp_path, data, teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    with engine.dry_run(config, ["KD.LOSSES.imitation.START_ITER", "400"]) as found:
        assert found.distiller(found.batch)["loss_imitation"].item() > 0


def test_a_first_batch_without_objects_is_passed_over(tmp_path, data, teacher):
    """Seed 1 begins with two of the images that have lost their objects."""
    own = shutil.copytree(data, tmp_path / "data")
    content = json.loads((own / "coco.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 10]
    (own / "coco.json").write_text(json.dumps(content))
    options = ["DATALOADER.FILTER_EMPTY_ANNOTATIONS", "False", "SEED", "1"]
    config = tiny.write_config(tmp_path, own, tiny.distilled(teacher))
    with engine.dry_run(config, options) as found:
        assert sum(map(len, found.batch.boxes)) == 2
        assert problems(loss_rows(found)) == []


@pytest.mark.parametrize("key, value, count", [("NORM", "FrozenBN", 20), ("FREEZE_AT", "2", 15)])
def test_frozen_parts_of_a_backbone_without_weights_are_told(tmp_path, data, teacher, caplog, key, value, count):
    """They stay noise: ResNet-18 has 20 norms, and 15 parameters up to its first stage."""
    options = ["MODEL.BACKBONE.NAME", "resnet18", f"MODEL.BACKBONE.{key}", value]
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    with engine.dry_run(config, options):
        pass
    assert f"MODEL.WEIGHTS is empty, but {count} parts of the backbone are frozen" in caplog.text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["SOLVER.OPTIMIZER", "sgdd"], "^SOLVER.OPTIMIZER is 'sgdd'"),
        (["SOLVER.OPTIMIZER_ARGS", "{'betas': 1}"], "^SOLVER.OPTIMIZER_ARGS: SGD cannot be built"),
        (["MODEL.DEVICE", "cuda"], "^MODEL.DEVICE is 'cuda', but torch finds no GPU"),
    ],
)
def test_a_dry_run_refuses_what_training_would(tmp_path, data, teacher, options, text):
    if options[0] == "MODEL.DEVICE" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    with pytest.raises(ConfigError, match=text), engine.dry_run(config, options):
        pass


def test_a_dry_run_refuses_a_metric_that_no_evaluation_gives(tmp_path, data, teacher):
    changes = {"DATASETS": {"TEST": ["tiny"]}, "TEST": {"BEST": "bbox/APP"}}
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher, changes))
    with pytest.raises(ConfigError, match="^TEST.BEST is 'bbox/APP', which no evaluation gives; did you mean bbox/AP"):
        with engine.dry_run(config, []):
            pass


def test_a_dry_run_reads_the_first_test_image(tmp_path, data, teacher):
    own = shutil.copytree(data, tmp_path / "data")
    entry = {"JSON": str(own / "coco.json"), "IMAGES": str(own / "images")}
    changes = {"DATASETS": {"CUSTOM": {"broken": entry}, "TEST": ["broken"]}}
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher, changes))
    png = (own / "images" / "0.png").read_bytes()
    (own / "images" / "0.png").write_bytes(png[: len(png) // 2])
    with pytest.raises(DataError, match="0.png"), engine.dry_run(config, []):
        pass


def test_a_dry_run_writes_nothing_into_the_folder_of_the_run(tmp_path, data, teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher, {"DATASETS": {"TEST": ["tiny"]}}))
    with engine.dry_run(config, []):
        pass
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_small_images_are_scored_with_norms_of_one_channel_a_group(tmp_path, data, teacher):
    """A test image of 64 pixels has one cell on P7: PyTorch's GroupNorm refuses it in eval mode."""
    changes = {
        "MODEL": {"META_ARCHITECTURE": "FCOS", "FPN": {"OUT_CHANNELS": 32}, "ANCHOR_GENERATOR": None},
        "DATASETS": {"TEST": ["tiny"]},
        "KD": {"LOSSES": {"imitation": None, "mimic": {"WEIGHT": 0.1}}},
    }
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher, changes))
    with engine.dry_run(config, []) as found:
        assert problems(loss_rows(found)) == []
