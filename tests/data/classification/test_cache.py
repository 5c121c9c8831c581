"""The cache of the teacher's outputs: what it holds, and when it is refused."""

import json
import os
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kd2.data.classification.cache import (
    Fingerprint,
    TeacherCache,
    digest,
    mean_prediction,
    weights_digest,
    write_cache,
)
from kd2.data.classification.crops import Crops
from kd2.data.classification.views import MODES, Views
from kd2.distill import ConfigError, DataError

IMAGES, CLASSES = 6, 4


def fingerprint(mode: str = "fix/cc", size: int = 32, seed: int = 0, count: int = 1000, **crops) -> Fingerprint:
    views = Views(mode, 32, size, seed, Crops(**crops))
    return Fingerprint.of(views, teacher="a" * 64, data="b" * 64, count=count, images=IMAGES, classes=CLASSES)


def logits() -> torch.Tensor:
    return torch.randn(IMAGES, CLASSES, generator=torch.Generator().manual_seed(0))


def batches(*groups: list[int]) -> list:
    return [(group, logits()[group]) for group in groups]


def written(tmp_path: Path, made_of: Fingerprint) -> str:
    folder = str(tmp_path / "cache")
    write_cache(folder, made_of, batches([4, 0, 2], [1, 3, 5]))
    return folder


# What it holds.


def test_outputs_come_back_by_index(tmp_path):
    cache = TeacherCache(written(tmp_path, fingerprint()), fingerprint())
    assert len(cache) == IMAGES
    assert torch.equal(cache[[5, 0, 0]], logits()[[5, 0, 0]]) and torch.equal(cache[3], logits()[3])


def test_outputs_are_read_through_a_memory_map(tmp_path):
    assert TeacherCache(written(tmp_path, fingerprint()), fingerprint()).outputs.filename.endswith("outputs.npy")


def test_half_precision_outputs_are_stored_as_float32(tmp_path):
    write_cache(str(tmp_path / "c"), fingerprint(), [(range(IMAGES), logits().bfloat16())])
    cache = TeacherCache(str(tmp_path / "c"), fingerprint())
    assert torch.equal(cache[list(range(IMAGES))], logits().bfloat16().float())


def test_the_mean_prediction_has_the_mean_probabilities_as_its_softmax():
    views = torch.randn(7, 3, CLASSES, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(mean_prediction(views).softmax(-1), views.softmax(-1).mean(0))


# When it is refused.


@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if not mode.cacheable])
def test_a_mode_with_fresh_views_has_no_fingerprint(mode):
    with pytest.raises(ConfigError, match="its outputs cannot be cached; a cache goes with fix/rs, fix/cc, fix/ic_ens"):
        fingerprint(mode)


def refusal(folder: str, expected: Fingerprint) -> str:
    text = "KD.VIEWS.CACHE: .* was made from something else: .* delete it or name another"
    with pytest.raises(ConfigError, match=text) as error:
        TeacherCache(folder, expected)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("teacher", "c" * 64, "teacher aaaaaaaaaaaa... instead of cccccccccccc..."),
        ("data", "c" * 64, "data bbbbbbbbbbbb... instead of cccccccccccc..."),
        ("mode", "fix/rs", "mode fix/cc instead of fix/rs"),
        ("size", 64, "size 32 instead of 64"),
        ("classes", 5, "classes 4 instead of 5"),
        ("images", 7, "images 6 instead of 7"),
    ],
)
def test_what_differs_is_named(tmp_path, name, value, text):
    assert text in refusal(written(tmp_path, fingerprint()), replace(fingerprint(), **{name: value}))


def test_the_draws_of_a_fixed_view_are_part_of_it(tmp_path):
    found = refusal(written(tmp_path, fingerprint()), fingerprint(scale=1.5))
    assert "draws {'scale': 1.25, 'padding': 0} instead of {'scale': 1.5, 'padding': 0}" in found


def test_seed_and_number_of_views_are_part_of_an_ensemble(tmp_path):
    found = refusal(written(tmp_path, fingerprint("fix/ic_ens")), fingerprint("fix/ic_ens", seed=1, count=10))
    assert "'seed': 0" in found and "views 1000 instead of 10" in found


def test_what_does_not_change_the_teachers_view_is_not_part_of_it():
    assert fingerprint("fix/cc", seed=1, count=5, area=(0.5, 1.0)) == fingerprint("fix/cc")


def test_a_folder_without_a_cache_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no cache \(No such file or directory: .*fingerprint.json\)"):
        TeacherCache(str(tmp_path), fingerprint())


@pytest.mark.parametrize("file", ["fingerprint.json", "outputs.npy"])
def test_a_damaged_cache_is_refused(tmp_path, file):
    folder = written(tmp_path, fingerprint())
    os.truncate(os.path.join(folder, file), 20)
    with pytest.raises(ConfigError, match="KD.VIEWS.CACHE: .*delete"):
        TeacherCache(folder, fingerprint())


# Writing is all or nothing.


def test_an_existing_folder_is_never_overwritten(tmp_path):
    folder = written(tmp_path, fingerprint())
    with pytest.raises(ConfigError, match="exists; delete it to compute the teacher's outputs anew"):
        write_cache(folder, fingerprint(), batches(list(range(IMAGES))))
    assert torch.equal(TeacherCache(folder, fingerprint())[0], logits()[0])


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        (batches([0, 1]), "no outputs of 4 of 6 images, the first is number 2"),
        ([([0, 1], torch.zeros(2, 5))], r"the teacher's outputs have shape \(2, 5\), expected \(2, 4\)"),
        (
            [([0], torch.full((1, 4), float("nan")))],
            r"the teacher's outputs of some of the images \[0\], ... are not finite",
        ),
    ],
)
def test_bad_outputs_leave_nothing_on_disk(tmp_path, outputs, text):
    with pytest.raises(DataError, match=text):
        write_cache(str(tmp_path / "cache"), fingerprint(), outputs)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path):
    many = replace(fingerprint(), images=100, classes=1000)
    # A limit on the size of files stands in for the disk.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        with pytest.raises(OSError):
            write_cache(str(tmp_path / "cache"), many, [(range(100), torch.zeros(100, 1000))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing_on_disk(tmp_path):
    def interrupted():
        yield from batches([0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_cache(str(tmp_path / "cache"), fingerprint(), interrupted())
    assert list(tmp_path.iterdir()) == []


def test_the_fingerprint_on_disk_is_plain_text(tmp_path):
    stored = json.loads(Path(written(tmp_path, fingerprint()), "fingerprint.json").read_text())
    assert (stored["mode"], stored["images"], stored["classes"]) == ("fix/cc", IMAGES, CLASSES)


# Digests.


def test_one_changed_weight_changes_the_digest():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = weights_digest(model.state_dict())
    assert weights_digest(model.state_dict()) == before
    model[1].running_mean[2] += 1e-6
    assert weights_digest(model.state_dict()) != before


def test_half_precision_weights_have_a_digest():
    state = {"w": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(4)}
    assert len(weights_digest(state)) == 64


def test_where_one_part_ends_changes_the_digest():
    assert digest(["ab", "c"]) != digest(["a", "bc"])


# Damaged ones.


@pytest.mark.parametrize("content", [b"", b"text", b"\x93NUMPY", b"\x93NUMPY\x01\x00\x05\x00{(((("])
def test_outputs_that_are_no_array_are_refused(tmp_path, content):
    folder = written(tmp_path, fingerprint())
    Path(folder, "outputs.npy").write_bytes(content)
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE: the outputs in .* cannot be read .*; delete it$"):
        TeacherCache(folder, fingerprint())


class Harm:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_outputs_that_are_a_pickle_run_no_code(tmp_path):
    folder = written(tmp_path, fingerprint())
    np.save(Path(folder, "outputs.npy"), np.array([Harm(tmp_path / "marker")], dtype=object), allow_pickle=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        TeacherCache(folder, fingerprint())
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("array", [np.zeros((IMAGES, CLASSES)), np.zeros((IMAGES, 1), np.float32)])
def test_outputs_of_another_shape_or_type_are_refused(tmp_path, array):
    folder = written(tmp_path, fingerprint())
    np.save(Path(folder, "outputs.npy"), array)
    with pytest.raises(ConfigError, match=r"have shape .* and type float.., expected \(6, 4\) float32; delete it"):
        TeacherCache(folder, fingerprint())


def test_outputs_that_are_not_finite_are_named_when_they_are_read(tmp_path):
    folder = written(tmp_path, fingerprint())
    array = logits().numpy()
    array[3, 1] = np.nan
    np.save(Path(folder, "outputs.npy"), array)
    cache = TeacherCache(folder, fingerprint())
    assert torch.equal(cache[[0, 1]], logits()[[0, 1]])
    with pytest.raises(
        DataError, match=r"KD.VIEWS.CACHE: the outputs of image \[1, 3\] in .* are not finite; delete it"
    ):
        cache[[1, 3]]


@pytest.mark.parametrize("text", ["[]", "5", "null", "[" * 100_000])
def test_a_fingerprint_that_is_none_is_refused(tmp_path, text):
    folder = written(tmp_path, fingerprint())
    Path(folder, "fingerprint.json").write_text(text)
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE: .*fingerprint.json .*; delete .*cache$"):
        TeacherCache(folder, fingerprint())
