"""Two teachers of a Detectron2 detector, the first one by a file, the second one by a name."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch

from kd2.distill import ConfigError

from ...helpers import zoo_files
from ...helpers.d2_tiny import distiller_of, load_config, train, write_config, write_pair

ZOO = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"


def config(folder, data, weights: str, config_file: str = ZOO) -> str:
    """The config of a student that learns the maps of its first teacher and of a second one."""
    kd = {"TEACHERS": [{"CONFIG_FILE": config_file, "WEIGHTS": weights}], "LOSSES": {"mimic": {"WEIGHT": 0.0001}}}
    return write_pair(folder, data, {"KD": kd, "SOLVER": {"MAX_ITER": 1, "STEPS": []}})


@pytest.mark.slow
def test_a_detector_of_the_zoo_is_the_second(data, tmp_path, monkeypatch):
    monkeypatch.setenv("KD2_WEIGHTS", str(tmp_path / "weights"))
    place = tmp_path / "weights" / zoo_files.ADDRESS / ZOO.removesuffix(".yaml") / "190397773/model_final_bfca0b.pkl"
    published = zoo_files.detector("retinanet", "R_50")
    zoo_files.write(published, place)
    path = config(tmp_path, data, ZOO)
    train(path)
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert {name.split(".")[0] for name in content["adapters"]} >= {"mimic", "mimic_teacher2"}
    state = distiller_of(load_config(path)).others[0].teacher.model.backbone.state_dict()
    assert all(torch.equal(x, published[f"backbone.{name}"]) for name, x in state.items())


def test_the_folder_of_a_run_is_the_second(data, tmp_path):
    own = write_config(tmp_path, data, {"OUTPUT_DIR": str(tmp_path / "run"), "SOLVER": {"MAX_ITER": 1, "STEPS": []}})
    train(own)
    path = config(tmp_path, data, str(tmp_path / "run"), str(tmp_path / "run"))
    further = distiller_of(load_config(path)).others[0].teacher.model.backbone.state_dict()
    trained = torch.load(tmp_path / "run" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(x, trained[f"backbone.{name}"]) for name, x in further.items())


@pytest.mark.parametrize(
    "weights, text",
    [
        ("", " is empty, expected a checkpoint file, a run folder, or a published name"),
        (ZOO.replace("1x", "9x"), ": the zoo has no weights of"),
        ("nowhere.pth", ": no file nowhere.pth"),
    ],
)
def test_an_error_names_the_key_of_the_second(data, tmp_path, weights, text):
    with pytest.raises(ConfigError) as caught:
        distiller_of(load_config(config(tmp_path, data, weights)))
    assert str(caught.value).startswith(f"KD.TEACHERS[0].WEIGHTS{text}")
