"""Batches: views as each mode promises, and the same whatever the workers, ranks and interruptions."""

import itertools

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import torch

from kd2.config import load
from kd2.data.classification.batches import Batch
from kd2.distill import ConfigError, DataError
from kd2.engine import ONE_PROCESS
from kd2.engine.lightning.classification.experiment import ClassificationExperiment

from ....helpers import lightning_runs as runs
from ....helpers import tiny_classification as tiny


def batches(config: str, *options: str, count: int = 5, start: int = 0, rank: int = 0, ranks: int = 1) -> list[Batch]:
    return list(itertools.islice(runs.batches(config, *options, start=start, rank=rank, ranks=ranks), count))


def equal(a: list[Batch], b: list[Batch]) -> bool:
    return all(
        torch.equal(x.images, y.images) and torch.equal(x.teacher, y.teacher) and torch.equal(x.labels, y.labels)
        for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory, pictures, class_teacher):
    """A config that distils; its data has 14 images, a batch 4."""
    return tiny.write_config(tmp_path_factory.mktemp("batches"), pictures, tiny.distilled(class_teacher))


@pytest.fixture(scope="module", params=["ind/ic", "funmatch"])
def mode(request):
    return request.param


@pytest.mark.parametrize("workers", ["2", "4"])
def test_workers_do_not_change_the_batches(config, mode, workers):
    options = ["KD.VIEWS.MODE", mode, "DATALOADER.NUM_WORKERS"]
    assert equal(batches(config, *options, "0"), batches(config, *options, workers))


def test_a_resumed_run_repeats_the_batches(config, mode):
    options = ["KD.VIEWS.MODE", mode]
    assert equal(batches(config, *options)[3:], batches(config, *options, start=3, count=2))


def test_two_ranks_share_the_images_of_one(config):
    whole = batches(config, "KD.VIEWS.MODE", "ind/ic")
    halves = [batches(config, "KD.VIEWS.MODE", "ind/ic", rank=rank, ranks=2) for rank in (0, 1)]
    assert all(torch.equal(w.images[r::2], half.images) for r in (0, 1) for w, half in zip(whole, halves[r]))


def test_a_second_epoch_draws_anew(config):
    """Over 14 images a batch of 14 is an epoch; the same image is seen twice."""
    first, second = batches(config, "SOLVER.IMS_PER_BATCH", "14", "KD.VIEWS.MODE", "fix/cc", count=2)
    a = {x.sum().item(): y for x, y in zip(first.teacher, first.images)}
    b = {x.sum().item(): y for x, y in zip(second.teacher, second.images)}
    assert a.keys() == b.keys() and not any(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("name", ["fix/rs", "same/rc", "same/ic", "funmatch"])
def test_the_same_view_is_one_tensor(config, name):
    assert all(batch.teacher is batch.images for batch in batches(config, "KD.VIEWS.MODE", name, count=2))


@pytest.mark.parametrize("name", ["fix/cc", "ind/rc", "ind/ic"])
def test_other_modes_show_the_teacher_something_else(config, name):
    batch = batches(config, "KD.VIEWS.MODE", name, count=1)[0]
    assert not any(torch.equal(s, t) for s, t in zip(batch.images, batch.teacher))


def test_function_matching_mixes_pixels_and_labels_by_one_draw(config):
    plain = batches(config, "KD.VIEWS.MODE", "same/ic", count=1)[0]
    mixed = batches(config, "KD.VIEWS.MODE", "funmatch", count=1)[0]
    shares = mixed.labels[range(4), plain.labels]
    a = next(float(s) for s, y, z in zip(shares, plain.labels, plain.labels.roll(1)) if y != z)
    torch.testing.assert_close(mixed.images, a * plain.images + (1 - a) * plain.images.roll(1, 0))


def test_training_on_labels_sees_the_students_views(config):
    guided = batches(config, "KD.VIEWS.MODE", "ind/ic", count=1)[0]
    alone = batches(config, "KD.VIEWS.MODE", "ind/ic", "KD.LOSSES.logits.WEIGHT", "0", count=1)[0]
    assert torch.equal(guided.images, alone.images) and alone.teacher is None


def test_a_test_set_is_seen_whole_and_by_both(config):
    experiment = runs.experiment(config, "DATASETS.TEST", "['tiny_test']", "TEST.IMS_PER_BATCH", "4")
    (data,) = experiment.load_data("TEST")
    found = [raw.to(torch.device("cpu")) for raw in experiment.test_loader(data, rank=0, ranks=1)]
    assert [len(b.images) for b in found] == [4, 4, 1] and all(b.teacher is b.images for b in found)
    assert torch.cat([b.labels for b in found]).tolist() == [1, 2, 0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"NPZ": "nowhere.npz"}, "NPZ .*nowhere.npz does not exist"),
        ({"TORCHVISION": "CIFAR10", "ROOT": "nowhere"}, "torchvision cannot read CIFAR10 in .*nowhere"),
    ],
)
def test_missing_data_is_named(tmp_path, pictures, entry, text):
    config = tiny.write_config(tmp_path, pictures, {"DATASETS": {"TRAIN": ["mine"], "CUSTOM": {"mine": entry}}})
    with pytest.raises(DataError, match=f"^data set 'mine': {text}"):
        runs.train(config)


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"NPY": "x"}, r"DATASETS.CUSTOM.mine is \{'NPY': 'x'\}, expected one of FOLDER, ZIP, NPZ, PARQUET, or TORCH"),
        (
            {"TORCHVISION": "CIFAR11", "ROOT": "x"},
            "DATASETS.CUSTOM.mine.TORCHVISION: torchvision has no 'CIFAR11'; did",
        ),
        (
            {"TORCHVISION": "LSUNClass", "ROOT": "x"},
            "DATASETS.CUSTOM.mine.TORCHVISION: kd2 does not read torchvision's 'LSUNClass'; choices",
        ),
    ],
)
def test_an_entry_that_is_no_data_set(tmp_path, pictures, entry, text):
    config = tiny.write_config(tmp_path, pictures, {"DATASETS": {"TRAIN": ["mine"], "CUSTOM": {"mine": entry}}})
    with pytest.raises(ConfigError, match=f"^{text}"):
        runs.train(config)


def test_images_as_files_are_those_of_an_archive(config, tmp_path, pictures):
    changes = {"DATASETS": {"TRAIN": ["files"], "CUSTOM": {"files": {"FOLDER": str(pictures / "train")}}}}
    (files,) = runs.experiment(tiny.write_config(tmp_path, pictures, changes)).load_data("TRAIN")
    (archive,) = runs.experiment(config).load_data("TRAIN")
    assert files.classes == archive.classes == tiny.CLASSES and len(files) == tiny.COUNT
    numbers = [archive.names.index(name) for name in files.names]
    assert all(torch.equal(files.pixels(i), archive.pixels(k)) for i, k in enumerate(numbers))


def test_a_broken_image_stops_training_with_its_name(tmp_path, pictures):
    files = [tiny.encoded(0), b"nothing", tiny.encoded(2)]

    np.savez(tmp_path / "bad.npz", **tiny.archive(files, [0, 1, 2], ["bar/0.png", "box/1.png", "dot/2.png"]))
    config = tiny.write_config(tmp_path, pictures)
    with pytest.raises(DataError, match=r"bad.npz: image 1 \(box/1.png\): not a readable image"):
        runs.train(config, "DATASETS.CUSTOM.tiny.NPZ", str(tmp_path / "bad.npz"))


def test_a_wrong_number_of_classes(tmp_path, pictures):
    with pytest.raises(ConfigError, match="^MODEL.NUM_CLASSES is 5, but .*train.npz has 3 classes: bar, box, dot$"):
        runs.train(tiny.write_config(tmp_path, pictures), "MODEL.NUM_CLASSES", "5")


def test_data_sets_meet_the_classes_of_the_run_by_name(pictures, tmp_path):
    cfg = load(tiny.write_config(tmp_path, pictures), ["MODEL.CLASSES", "['bar', 'dot', 'box']"])
    [data] = ClassificationExperiment(cfg, ONE_PROCESS).load_data("TRAIN")
    assert data.classes == ("bar", "dot", "box")
    assert [data.classes[label] for label in data.labels] == [name.split("/")[0] for name in data.names]


def test_a_class_that_the_run_does_not_have_is_refused(tmp_path, pictures):
    with pytest.raises(DataError, match="train.npz has the classes bar, box, dot, the run's are bar, fox, dot: "):
        runs.train(tiny.write_config(tmp_path, pictures), "MODEL.CLASSES", "['bar', 'fox', 'dot']")
