"""Two teachers of a torchvision detector, the first one by a file, the second one by a name."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
from torchvision.models import get_model_weights

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers import torchvision_files, zoo_files

SSDLITE = "torchvision://ssdlite320_mobilenet_v3_large"
ZOO = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


@pytest.fixture
def write(tmp_path, data, teacher):
    """Writes the config of a student that learns one map of two teachers, whose second one has the keys ``second``."""

    def written(**second) -> str:
        kd = {"TAPS": ["fpn=backbone:0"], "TEACHERS": [second]}
        changes = tiny.distilled(teacher, {"KD": kd, "SOLVER": {"MAX_ITER": 1, "STEPS": []}})
        changes["KD"]["LOSSES"] = {"mimic": {"WEIGHT": 0.001, "RESIZE": "student"}}
        return tiny.write_config(tmp_path, data, changes)

    return written


def second(config: str) -> torch.nn.Module:
    """The second teacher, after a run that it taught in."""
    runs.train(config)
    return runs.distiller(config).others[0].teacher.model


def test_torchvisions_published_detector_is_the_second(write, tmp_path, monkeypatch):
    monkeypatch.setenv("KD2_WEIGHTS", str(tmp_path / "weights"))
    address = get_model_weights(SSDLITE.removeprefix("torchvision://"))["DEFAULT"].url
    path = tmp_path / "weights" / address.removeprefix("https://")
    path.parent.mkdir(parents=True)
    published = torchvision_files.write(SSDLITE.removeprefix("torchvision://"), path)
    model = second(write(CONFIG_FILE=SSDLITE, WEIGHTS=SSDLITE))
    assert runs.same(model.backbone.state_dict(), published.backbone.state_dict()) == []


def test_the_folder_of_a_run_is_the_second(write, rcnn_teacher):
    folder = rcnn_teacher / "out"
    state = second(write(CONFIG_FILE=str(folder), WEIGHTS=str(folder))).backbone.state_dict()
    whole = runs.checkpoint(folder)["model"]
    assert runs.same(state, {k[9:]: x for k, x in whole.items() if k.startswith("backbone.")}) == []


@pytest.mark.slow
def test_a_detector_of_detectron2s_zoo_is_the_second_and_sees_its_own_colors(write, tmp_path, monkeypatch):
    monkeypatch.setenv("KD2_WEIGHTS", str(tmp_path / "weights"))
    place = tmp_path / "weights" / zoo_files.ADDRESS / ZOO.removesuffix(".yaml") / "190397773/model_final_bfca0b.pkl"
    published = zoo_files.detector("retinanet", "R_50")
    zoo_files.write(published, place)
    config = write(CONFIG_FILE=ZOO, WEIGHTS=ZOO)
    distiller, batch, seen = runs.distiller(config), runs.first_batch(config), {}
    body = distiller.others[0].teacher.model.backbone.body
    assert torch.equal(body.conv1.weight, published["backbone.bottom_up.stem.conv1.weight"])
    body.conv1.register_forward_pre_hook(lambda _, inputs: seen.update(zoo=inputs[0]))
    assert "loss_mimic_teacher2" in distiller(batch)
    height, width = batch.images[0].shape[1:]
    pixels = seen["zoo"][0, :, :height, :width] + torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    torch.testing.assert_close(pixels, batch.images[0].flip(0).float(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    "keys, text",
    [
        ((ZOO, ""), "WEIGHTS is empty, expected a checkpoint file, a run folder, or a published name"),
        ((SSDLITE, ""), "WEIGHTS is empty, expected a checkpoint file, a run folder, or a published name"),
        ((ZOO, ZOO.replace("1x", "9x")), "WEIGHTS: the zoo has no weights of"),
        ((SSDLITE, f"{SSDLITE}/COCO_V9"), "WEIGHTS: ssdlite320_mobilenet_v3_large of torchvision has no weights"),
        ((SSDLITE, "nowhere.pth"), "WEIGHTS: no file nowhere.pth"),
        ((SSDLITE + "r", SSDLITE), "CONFIG_FILE: torchvision has no 'ssdlite320_mobilenet_v3_larger'"),
        ((ZOO.replace("1x", "9x"), ZOO), "CONFIG_FILE: FRAMEWORK torchvision reads RetinaNet, Faster,"),
    ],
)
def test_an_error_names_the_key_of_the_second(write, keys, text):
    with pytest.raises(ConfigError) as caught:
        runs.distiller(write(CONFIG_FILE=keys[0], WEIGHTS=keys[1]))
    assert str(caught.value).startswith(f"KD.TEACHERS[0].{text}")


def test_a_folder_without_a_checkpoint_is_refused_under_the_key_of_the_second(write, teacher, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"^KD.TEACHERS\[0\].WEIGHTS: no file .*empty/model_final.pth"):
        runs.distiller(write(CONFIG_FILE=str(teacher / "out"), WEIGHTS=str(tmp_path / "empty")))
