"""Checkpoints are read without running code, whole and finite, or refused in one line."""

import argparse
import collections
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
import torch

from kd2.distill import ConfigError
from kd2.engine.permission import permitted
from kd2.engine.weights.checkpoint import class_names, read_checkpoint, read_weights

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
RUN = {
    "model": STATE,
    "adapters": {"loss.weight": torch.ones(1)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "scheduler": {"last_epoch": 5},
    "iteration": 4,
    "kd2": {
        "version": "0.2",
        "seed": 3,
        "rng": [{"cpu": torch.get_rng_state(), "cuda": []}],
        "classes": {"things": ["cat", "dog"]},
        "teacher": {"config_file": "", "weights": ""},
        "config": "SEED: 3",
    },
    "trainer": {},
}


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def saved(folder, content, **options) -> str:
    torch.save(content, folder / "a.pth", **options)
    return str(folder / "a.pth")


def pickled(folder, content, name="a.pkl") -> str:
    (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    return str(folder / name)


def with_change(path: tuple, value) -> dict:
    """``RUN`` with another value at a path of keys."""
    content = {key: dict(entry) if isinstance(entry, dict) else entry for key, entry in RUN.items()}
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return content


def test_what_is_saved_reads_back(tmp_path):
    content = read_checkpoint(saved(tmp_path, RUN), "KEY")
    assert torch.equal(content["model"]["weight"], STATE["weight"])
    assert class_names(content, "things") == ["cat", "dog"]


@pytest.mark.parametrize("content", [STATE, {"model": STATE, "epoch": 5}, {"model": STATE, "optimizer": "theirs"}])
def test_weights_are_the_model_entry_or_the_whole_file(tmp_path, content):
    found = read_weights(saved(tmp_path, content), "KEY")
    assert found.keys() == STATE.keys() and all(torch.equal(found[k], STATE[k]) for k in STATE)


@pytest.mark.parametrize("name", ["a.pkl", "a.pyth", "a.pth", "weights"])
def test_a_pickle_of_arrays_is_read_whatever_its_name(tmp_path, name):
    content = {"model": {k: v.numpy() for k, v in STATE.items()}, "__author__": "Detectron2 Model Zoo"}
    found = read_weights(pickled(tmp_path, content, name), "KEY")
    assert all(torch.equal(found[k], STATE[k]) for k in STATE)


def test_arrays_of_another_byte_order_are_read(tmp_path):
    path = pickled(tmp_path, {"model": {"x": np.array([1.5, 2], ">f4")}})
    assert read_weights(path, "KEY")["x"].tolist() == [1.5, 2]


@pytest.mark.parametrize("name", ["a.pkl", "a.pyth", "a.pth", "weights"])
@pytest.mark.parametrize("write", [pickle.dump, torch.save, lambda *a: torch.save(*a, **OLD)])
def test_a_file_that_would_run_code_does_not_whatever_its_name(tmp_path, name, write):
    with open(tmp_path / name, "wb") as file:
        write({"model": Harm(tmp_path / "marker")}, file)
    text = rf"^KEY: .*{name} is no checkpoint of plain tensors: loading it would run code .*mkdir.*--allow-pickle"
    with pytest.raises(ConfigError, match=text):
        read_checkpoint(str(tmp_path / name), "KEY")
    assert os.listdir(tmp_path) == [name]


OLD = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize("options", [{}, OLD])
def test_with_the_permission_its_code_runs(tmp_path, options):
    path = saved(tmp_path, {"model": STATE, "more": Harm(tmp_path / "marker")}, **options)
    with permitted(pickles=True):
        assert read_weights(path, "KEY").keys() == STATE.keys()
    assert (tmp_path / "marker").is_dir()


def test_the_permission_ends_with_its_block(tmp_path):
    path = pickled(tmp_path, {"more": Harm(tmp_path / "marker")})
    with permitted(pickles=True):
        pass
    with pytest.raises(ConfigError, match="would run code"):
        read_checkpoint(path, "KEY")


@pytest.mark.parametrize("content", [b"not a checkpoint", bytes(100), b"PK\x03\x04"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConfigError, match="^KEY: .*a.pth is truncated or no checkpoint"):
        read_checkpoint(str(tmp_path / "a.pth"), "KEY")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", r"a page \(HTML or XML\)"),
        (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", r"a page \(HTML or XML\)"),
        (b'{"message": "Not Found"}', r"a text \(JSON\)"),
        (b"\x1f\x8b\x08\x00\x00", r"packed \(gzip\)"),
    ],
)
def test_what_lies_in_place_of_weights_is_told(tmp_path, content, found):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConfigError, match=f"^KEY: .*a.pth is {found}.*, expected a file of weights$"):
        read_checkpoint(str(tmp_path / "a.pth"), "KEY")


def test_archives_of_something_else_are_told(tmp_path):
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), str(tmp_path / "program.pth"))
    with pytest.raises(ConfigError, match="^KEY: .*program.pth is a TorchScript program, expected a file of weights$"):
        read_checkpoint(str(tmp_path / "program.pth"), "KEY")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w") as archive:
        archive.write(saved(tmp_path, {"model": STATE}), "a.pth")
    with pytest.raises(ConfigError, match=r"packed.pth is an archive \(ZIP\) of other files, expected a file of w"):
        read_checkpoint(str(tmp_path / "packed.pth"), "KEY")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    (tmp_path / "a.safetensors").write_bytes((2).to_bytes(8, "little") + b'{"')
    with pytest.raises(ConfigError, match="^KEY: .*a.safetensors needs the package safetensors.*, which is missing"):
        read_checkpoint(str(tmp_path / "a.safetensors"), "KEY")


def test_weights_in_an_entry_of_another_name_are_pointed_at(tmp_path):
    torch.save({"epoch": 3, "net": STATE, "optimizer": {"state": {}}}, tmp_path / "a.pth")
    with pytest.raises(
        ConfigError, match="^KEY: .*a.pth has tensors in net, expected them in one of model, state_dict"
    ):
        read_weights(str(tmp_path / "a.pth"), "KEY")


@pytest.mark.parametrize("options", [{}, OLD])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_truncated_checkpoints_are_refused(tmp_path, share, options):
    path = saved(tmp_path, {"model": {"x": torch.rand(1000)}}, **options)
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigError, match="^KEY: .*a.pth is truncated or no checkpoint"):
        read_checkpoint(path, "KEY")


def test_zeros_in_the_middle_of_a_file_are_found(tmp_path):
    path = saved(tmp_path, {"model": {"x": torch.rand(2000)}})
    content = bytearray((tmp_path / "a.pth").read_bytes())
    middle = content.index(b"a/data/0") + 4000
    content[middle : middle + 2000] = bytes(2000)
    (tmp_path / "a.pth").write_bytes(content)
    assert torch.load(path, weights_only=True)  # torch takes it
    with pytest.raises(ConfigError, match="^KEY: .*a.pth is damaged: the check sum of its entry a/data/0 is wrong$"):
        read_checkpoint(path, "KEY")


def test_a_compressed_archive_is_refused(tmp_path):
    path = saved(tmp_path, {"model": {"x": torch.zeros(2000)}})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.namelist():
            new.writestr(entry, old.read(entry))
    with pytest.raises(ConfigError, match="compressed"):
        read_checkpoint(str(tmp_path / "b.pth"), "KEY")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="^KEY: no file .*gone/a.pth; no folder .*gone$"):
        read_checkpoint(str(tmp_path / "gone" / "a.pth"), "KEY")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, number, kind):
    bad = torch.ones(2, 3, dtype=kind)
    bad[1, 1] = number
    path = saved(tmp_path, {"model": STATE | {"weight": bad}})
    with pytest.raises(ConfigError, match=r"^KEY: .*a.pth: model: weight is NaN or infinite in 1 of 6 elements, expec"):
        read_checkpoint(path, "KEY")


WRONG_WEIGHTS = [
    ("text", "a str 'text'"),
    (None, "a NoneType None"),
    ({}, "a dict"),
    ([1.0], "a list"),
    (1.5, "a float 1.5"),
    (torch.ones(2, dtype=torch.complex64), "a tensor of torch.complex64"),
    (torch.ones(2, 2).to_sparse(), "a tensor that is torch.sparse_coo"),
    (torch.ones(2, 2).to_sparse_csr(), "a tensor that is torch.sparse_csr"),
    (torch.empty(2, device="meta"), "a tensor that is meta"),
    (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "a tensor that is quantized"),
    (torch.ones(1).expand(1 << 40), r"a tensor \(1099511627776,\) whose elements share 4 bytes"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("value", "text"), WRONG_WEIGHTS)
@pytest.mark.parametrize("bare", [True, False])
def test_what_is_no_weight_is_refused_by_name(tmp_path, value, text, bare):
    state = STATE | {"weight": value}
    with pytest.raises(
        ConfigError, match=rf"^KEY: .*weight is {text}, expected a dense tensor of finite real numbers$"
    ):
        read_weights(saved(tmp_path, state if bare else {"model": state}), "KEY")


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([b"a"]), np.ones(2, complex)])
def test_arrays_that_are_no_weights_are_refused_by_name(tmp_path, array):
    with pytest.raises(ConfigError, match="^KEY: .*model: weight is a ndarray, expected a dense tensor"):
        read_checkpoint(pickled(tmp_path, {"model": {"weight": array}}), "KEY")


@pytest.mark.parametrize("content", [[1, 2], "text", None, 5, torch.ones(2)])
def test_a_checkpoint_that_is_no_dict_is_refused(tmp_path, content):
    with pytest.raises(ConfigError, match="^KEY: .*a.pth holds a .*, expected a dict of weights by name$"):
        read_checkpoint(saved(tmp_path, content), "KEY")


def test_a_dict_whose_methods_the_file_replaces_is_refused(tmp_path):
    content = collections.OrderedDict(STATE)
    content.values = 5
    with pytest.raises(ConfigError, match="model holds a OrderedDict"):
        read_weights(saved(tmp_path, {"model": content}), "KEY")


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (("model",), 5, "model holds a int 5"),
        (("model",), {5: torch.ones(1)}, r"model has the name 5 \(int\), expected texts"),
        (("model",), {("a",): torch.ones(1)}, r"model has the name \('a',\) \(tuple\)"),
        ((5,), 5, r"has the name 5 \(int\)"),
        (("adapters",), [], "adapters is a list, expected a dict"),
        (("adapters",), {"x": torch.tensor(float("nan"))}, "adapters: x is NaN or infinite in 1 of 1 elements"),
        (("optimizer",), 5, "optimizer is a int 5, expected a dict of states and param_groups"),
        (("optimizer",), {}, "optimizer is a dict, expected a dict of states and param_groups"),
        (("optimizer",), {"state": [], "param_groups": []}, "optimizer is a dict, expected"),
        (("optimizer",), {"state": {0: 5}, "param_groups": []}, "optimizer is a dict, expected"),
        (("optimizer",), {"state": {}, "param_groups": [5]}, "optimizer is a dict, expected"),
        (("scheduler",), None, "scheduler is a NoneType None, expected a dict"),
        (("iteration",), -1, "iteration is a int -1, expected a whole number from 0"),
        (("iteration",), 10**30, "iteration is a int 10+, expected a whole number from 0"),
        (("iteration",), "5", "iteration is a str '5', expected a whole number from 0"),
        (("iteration",), 5.0, "iteration is a float 5.0, expected a whole number from 0"),
        (("iteration",), True, "iteration is a bool True, expected a whole number from 0"),
        (("trainer",), "text", "trainer is a str 'text', expected a dict"),
        (("kd2",), 5, "kd2 is a int 5, expected a dict"),
        (("kd2", "version"), 2, "kd2: version is a int 2, expected a text"),
        (("kd2", "seed"), "3", "kd2: seed is a str '3', expected a whole number from 0"),
        (("kd2", "rng"), {}, "kd2: rng is a dict, expected a list of states of torch's generators"),
        (("kd2", "rng"), [5], "kd2: rng is a list, expected"),
        (("kd2", "rng"), [{"cpu": torch.ones(3)}], "kd2: rng is a list, expected"),
        (("kd2", "rng"), [{"cpu": torch.zeros(5056, dtype=torch.uint8), "cuda": []}], "kd2: rng is a list, expected"),
        (("kd2", "classes"), ["a"], "kd2: classes is a list, expected lists of names by kind"),
        (("kd2", "classes"), {"things": "cat"}, "kd2: classes is a dict, expected lists of names by kind"),
        (("kd2", "classes"), {"things": [1]}, "kd2: classes is a dict, expected lists of names by kind"),
        (("kd2", "teacher"), "t", "kd2: teacher is a str 't', expected a dict"),
        (("kd2", "config"), {}, "kd2: config is a dict, expected a text"),
        (("kd2", "raw_model"), {"x": 5}, "kd2: raw_model: x is a int 5"),
    ],
)
def test_a_broken_entry_is_named_with_what_was_expected(tmp_path, path, value, text):
    with pytest.raises(ConfigError, match=rf"^KEY: .*a.pth:? {text}"):
        read_checkpoint(saved(tmp_path, with_change(path, value)), "KEY")


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 3, "model_state_dict": STATE, "optimizer_state_dict": {}, "loss": 0.5},
        {"model": STATE, "epoch": 25, "args": argparse.Namespace(lr=0.02, data_path="coco")},
        {"state_dict": STATE, "meta": {"CLASSES": ("cat",)}},
        {f"module.{name}": x for name, x in STATE.items()},
        {"model": {f"_orig_mod.{name}": x for name, x in STATE.items()}, "epoch": 3},
        {"state_dict": {f"model.module.{name}": x for name, x in STATE.items()}, "pytorch-lightning_version": "2.0"},
        {"model": "resnet18", "state_dict": STATE},
        {"model": None, "state_dict": STATE},
        {"n_averaged": torch.tensor(3), **{f"module.{name}": x for name, x in STATE.items()}},
    ],
)
def test_weights_of_other_tools_come_without_their_wrappers(tmp_path, content):
    assert read_weights(saved(tmp_path, content), "KEY").keys() == STATE.keys()


def test_a_name_that_not_all_weights_begin_with_is_no_wrapper(tmp_path):
    state = {"module.weight": torch.ones(1), "bias": torch.ones(1)}
    assert read_weights(saved(tmp_path, state), "KEY").keys() == state.keys()
