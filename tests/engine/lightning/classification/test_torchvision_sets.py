"""Classes of torchvision that kd2 reads: nothing runs, is fetched or lies outside."""

import inspect
import os
import pickle

import numpy as np
import pytest
import torchvision
from PIL import Image

from kd2.distill import ConfigError, DataError
from kd2.engine.lightning.classification.torchvision_sets import ALLOWED, read_torchvision


class Harm:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Two images a batch in CIFAR-10's layout; their MD5 sums, which are not those of CIFAR, are taken for right."""
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    folder = tmp_path / "cifar" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    batch = {"data": np.arange(2 * 3072, dtype=np.uint8).reshape(2, 3072), "labels": [0, 1]}
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["plane", "car"]}, protocol=2))
    return folder


def test_cifar_is_read(cifar):
    data = read_torchvision("mine", "CIFAR10", str(cifar.parent), "train")
    assert (data.classes, data.labels.tolist()) == (("plane", "car"), [0, 1] * 5)
    first = np.arange(3072, dtype=np.uint8).reshape(3, 32, 32)
    np.testing.assert_array_equal(data.pixels(0).numpy(), first)


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_pickle_in_the_layout_of_cifar_runs_no_code(cifar, tmp_path, name):
    (cifar / name).write_bytes(pickle.dumps(Harm(tmp_path / "marker"), protocol=2))
    with pytest.raises(DataError, match="^data set 'mine': torchvision cannot read CIFAR10 in .*mkdir"):
        read_torchvision("mine", "CIFAR10", str(cifar.parent))
    assert not (tmp_path / "marker").exists()


def test_pickle_itself_is_back_afterwards(cifar):
    read_torchvision("mine", "CIFAR10", str(cifar.parent))
    assert torchvision.datasets.cifar.pickle is pickle


@pytest.mark.parametrize("name", ["LSUN", "LSUNClass", "ImageNet", "FakeData", "Kinetics", "VisionDataset", "os"])
def test_other_classes_are_refused_before_they_do_anything(tmp_path, monkeypatch, name):
    """LSUNClass unpickles a file of the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "_cache_").write_bytes(pickle.dumps(Harm(tmp_path / "marker")))
    with pytest.raises(ConfigError, match=f"^DATASETS.CUSTOM.mine.TORCHVISION: .* '{name}'; "):
        read_torchvision("mine", name, str(tmp_path))
    assert os.listdir(tmp_path) == ["_cache_"]


@pytest.mark.parametrize("name", ALLOWED)
def test_nothing_is_fetched_or_made_where_the_files_are_missing(tmp_path, monkeypatch, name):
    def fail(*_, **__):
        raise AssertionError("fetched")

    for place in ("download_url", "download_and_extract_archive", "extract_archive"):
        monkeypatch.setattr(torchvision.datasets.utils, place, fail)
    monkeypatch.setattr("urllib.request.urlopen", fail)
    assert "download" in inspect.signature(getattr(torchvision.datasets, name)).parameters
    with pytest.raises(DataError, match=f"torchvision cannot read {name}"):
        read_torchvision("mine", name, str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_a_list_of_files_does_not_lead_out(tmp_path):
    """Food-101 keeps its files as names in JSON."""
    root = tmp_path / "root"
    (root / "food-101" / "meta").mkdir(parents=True)
    (root / "food-101" / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.jpg")
    for split in ("train", "test"):
        (root / "food-101" / "meta" / f"{split}.json").write_text('{"pie": ["../../../secret"]}')
    with pytest.raises(DataError, match=r"^data set 'mine': file name .*secret.jpg' leads out of .*root"):
        read_torchvision("mine", "Food101", str(root), "train")
