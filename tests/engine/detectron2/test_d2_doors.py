"""Where Detectron2 by itself would run what stands in a file."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import os
import pickle
import sys

import numpy as np
import torch

from kd2.distill import ConfigError
from kd2.engine.detectron2 import zoo
from kd2.engine.detectron2.config import teacher_config
from kd2.engine.detectron2.data import eval_loader, train_loader

from ...helpers.d2_tiny import FASTER_RCNN, load_config, train, write_config
from ...helpers.trees import tree


class Harm:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["../evil.yaml", "COCO-Detection/../../evil.yaml", "COCO-Detection/evil.yaml"])
def test_a_teacher_config_that_the_zoo_does_not_list_is_not_evaluated(retinanets, tmp_path, monkeypatch, name):
    """Detectron2's own loader would run it."""
    (tmp_path / "zoo" / "COCO-Detection").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "zoo" / "COCO-Detection"):
        (folder / "evil.yaml").write_text(f"SEED: !!python/object/apply:os.mkdir ['{tmp_path}/marker']")
    monkeypatch.setattr(zoo, "_FOLDER", str(tmp_path / "zoo"))
    with pytest.raises(ConfigError, match="KD.TEACHER.CONFIG_FILE: .* no config of Detectron2's zoo|not a safe YAML"):
        teacher_config(load_config(retinanets, ["KD.TEACHER.CONFIG_FILE", name]))
    assert not (tmp_path / "marker").exists()


def test_a_teacher_config_beside_the_run_is_not_evaluated(retinanets, tmp_path):
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"SEED: !!python/object/apply:os.mkdir ['{tmp_path}/marker']")
    with pytest.raises(ConfigError, match="evil.yaml: not a safe YAML mapping"):
        teacher_config(load_config(retinanets, ["KD.TEACHER.CONFIG_FILE", str(evil)]))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", [name for name in zoo.config_names() if name.endswith(".yaml")])
def test_detectron2s_unsafe_loader_is_never_called(retinanets, name, monkeypatch):
    import yaml

    def fail(*_, **__):
        raise AssertionError("unsafe_load")

    monkeypatch.setattr(yaml, "unsafe_load", fail)
    assert teacher_config(load_config(retinanets, ["KD.TEACHER.CONFIG_FILE", name])).VERSION == 2


@pytest.fixture
def proposals(data, tmp_path):
    """A config that trains and evaluates on proposals, and the folder of their file."""
    changes = {
        "MODEL": {"LOAD_PROPOSALS": True, "PROPOSAL_GENERATOR": {"NAME": "PrecomputedProposals"}},
        "DATASETS": {
            "TEST": ["tiny"],
            "PROPOSAL_FILES_TRAIN": [str(tmp_path / "p.pkl")],
            "PROPOSAL_FILES_TEST": [str(tmp_path / "p.pkl")],
        },
    }
    return load_config(write_config(tmp_path, data, changes, detector=FASTER_RCNN)), tmp_path


def records(cfg) -> list[dict]:
    from detectron2.data import DatasetCatalog

    from kd2.engine.detectron2.data import register

    register(cfg, ["tiny"])
    return DatasetCatalog.get("tiny")


def write(folder, ids: list, **more) -> None:
    boxes = [np.array([[4.0, 4, 20, 20], [0, 0, 9, 9]], np.float32) for _ in ids]
    content = {"ids": ids, "boxes": boxes, "objectness_logits": [np.array([0.5, 2.0], np.float32) for _ in ids]}
    (folder / "p.pkl").write_bytes(pickle.dumps(content | more))


@pytest.mark.parametrize("loader", [train_loader, lambda cfg: eval_loader(cfg, "tiny")])
def test_proposals_are_read(proposals, loader):
    cfg, folder = proposals
    write(folder, [record["image_id"] for record in records(cfg)])
    sample = next(iter(loader(cfg)))[0]
    assert sample["proposals"].objectness_logits.tolist() == [2.0, 0.5]


@pytest.mark.parametrize("loader", [train_loader, lambda cfg: eval_loader(cfg, "tiny")])
def test_proposals_run_no_code(proposals, loader):
    cfg, folder = proposals
    write(folder, [record["image_id"] for record in records(cfg)], more=Harm(folder / "marker"))
    with pytest.raises(ConfigError, match=r"^DATASETS.PROPOSAL_FILES_T.*: .*p.pkl .* it builds \w+.mkdir"):
        loader(cfg)
    assert not (folder / "marker").exists()
    assert sys.modules["detectron2.data.build"].pickle is pickle


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "EOFError"),
        (pickle.dumps([1]), "TypeError"),
        (pickle.dumps({"ids": []}), "KeyError"),
        (pickle.dumps({"ids": [], "boxes": [], "objectness_logits": []}), "KeyError"),
    ],
)
def test_broken_proposals_are_named(proposals, content, text):
    cfg, folder = proposals
    (folder / "p.pkl").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^DATASETS.PROPOSAL_FILES_TRAIN: .*p.pkl cannot be used .*{text}"):
        train_loader(cfg)


def test_each_data_set_needs_its_file_of_proposals(proposals):
    cfg, _ = proposals
    cfg.defrost()
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = ()
    with pytest.raises(ConfigError, match="PROPOSAL_FILES_TRAIN has 0 files, MODEL.LOAD_PROPOSALS needs one"):
        train_loader(cfg)


@pytest.mark.parametrize("write_file", [pickle.dump, torch.save])
@pytest.mark.parametrize("name", ["w.pkl", "w.pth", "w.pyth"])
def test_the_weights_of_a_run_run_no_code(data, tmp_path, write_file, name):
    with open(tmp_path / name, "wb") as file:
        write_file({"model": Harm(tmp_path / "marker")}, file)
    config = write_config(tmp_path, data)
    with pytest.raises(ConfigError, match=f"^MODEL.WEIGHTS: .*{name} is no checkpoint of plain tensors"):
        train(config, "MODEL.WEIGHTS", str(tmp_path / name))
    assert not (tmp_path / "marker").exists()


def test_a_config_cannot_permit_itself(data, tmp_path):
    with pytest.raises(ConfigError, match="^KD.ALLOW_PICKLE: a config cannot let files run code; .*--allow-pickle$"):
        load_config(write_config(tmp_path, data, {"KD": {"ALLOW_PICKLE": True}}))


def test_the_command_line_can(data, tmp_path):
    """The file has no weights that fit, which is found behind its unpickling."""
    with open(tmp_path / "w.pkl", "wb") as file:
        pickle.dump({"model": {"x": np.ones(1)}, "more": Harm(tmp_path / "marker")}, file)
    with pytest.raises(ConfigError, match="does not fit"):
        train(write_config(tmp_path, data), "MODEL.WEIGHTS", str(tmp_path / "w.pkl"), allow_pickle=True)
    assert (tmp_path / "marker").is_dir()


def test_a_run_writes_into_its_output_folder_alone(data, tmp_path, monkeypatch):
    working = tmp_path / "working"
    working.mkdir()
    config = write_config(tmp_path, data, {"DATASETS": {"TEST": ["tiny"]}})
    before = tree(tmp_path, data)
    monkeypatch.chdir(working)
    train(config, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "only"))
    assert (tmp_path / "only" / "model_final.pth").is_file()
    assert tree(tmp_path, data, without=tmp_path / "only") == before


@pytest.mark.parametrize("source", [{"JSON": "coco.json", "IMAGES": "images"}, {"VOC": "voc", "SPLIT": "val"}])
def test_the_name_of_a_data_set_names_no_file_elsewhere(data, tmp_path, source):
    """Detectron2's evaluator writes NAME_coco_format.json."""
    name = "../../elsewhere"
    custom = {name: {key: str(data / value) for key, value in source.items()}}
    changes = {"DATASETS": {"TRAIN": [name], "TEST": [name], "CUSTOM": custom}}
    with pytest.raises(ConfigError, match="^DATASETS.CUSTOM: '../../elsewhere' is no name of a data set"):
        train(write_config(tmp_path, data, changes))
