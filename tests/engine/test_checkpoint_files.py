"""Checkpoint files: read without running code, matched by name and shape."""

import os
import pickle

import pytest
import torch
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.checkpoint import (
    Match,
    load_state,
    read_checkpoint,
    weights_of,
)
from kd2.runs.files import save_atomically

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def model() -> nn.Linear:
    return nn.Linear(3, 2)


class Harm:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_what_is_saved_reads_back(tmp_path):
    save_atomically({"model": STATE}, str(tmp_path / "a.pth"))
    assert torch.equal(read_checkpoint(str(tmp_path / "a.pth"), "KEY")["model"]["weight"], STATE["weight"])


def test_a_checkpoint_that_runs_code_is_refused_and_does_not_run(tmp_path):
    torch.save({"model": Harm(tmp_path / "trace")}, tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="^KEY: .*a.pth is no checkpoint of plain tensors"):
        read_checkpoint(str(tmp_path / "a.pth"), "KEY")
    assert not (tmp_path / "trace").exists()


def test_a_pickle_needs_the_opt_in(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {}}))
    text = "^KEY: .*a.pkl is a pickle, which can run code when loaded; "
    with pytest.raises(ConfigError, match=text):
        read_checkpoint(str(tmp_path / "a.pkl"), "KEY")


def test_with_the_opt_in_a_pickle_is_read(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"model": {"x": 1}}))
    assert read_checkpoint(str(tmp_path / "a.pkl"), "KEY", allow_pickle=True) == {"model": {"x": 1}}


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(100)])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(ConfigError, match="^KEY: .*a.pth is "):
        read_checkpoint(str(tmp_path / "a.pth"), "KEY")


@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_truncated_checkpoints_are_refused(tmp_path, share):
    save_atomically({"model": {"x": torch.rand(1000)}}, str(tmp_path / "a.pth"))
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConfigError, match="^KEY: .*a.pth is truncated or no checkpoint"):
        read_checkpoint(str(tmp_path / "a.pth"), "KEY")


def test_a_checkpoint_that_is_no_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "a.pth")
    with pytest.raises(ConfigError, match="^KEY: .*a.pth holds a list, expected a dict of weights$"):
        read_checkpoint(str(tmp_path / "a.pth"), "KEY")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(ConfigError, match="^KEY: no file .*gone/a.pth; no folder .*gone$"):
        read_checkpoint(str(tmp_path / "gone" / "a.pth"), "KEY")


@pytest.mark.parametrize("content", [STATE, {"model": STATE, "iteration": 5}])
def test_weights_are_the_model_entry_or_the_whole_file(content):
    assert weights_of(content) is STATE


def test_an_exact_match_is_100_percent():
    match = Match(model(), STATE)
    assert (match.matched, match.text()) == (1.0, "100.0 % of the weights matched")


def test_the_matched_part_counts_elements():
    assert Match(model(), {"weight": STATE["weight"]}).matched == 6 / 8


def test_a_batch_norms_counter_does_not_count():
    norm = nn.BatchNorm2d(2)
    state = {k: v for k, v in norm.state_dict().items() if k != "num_batches_tracked"}
    assert Match(norm, state).matched == 1


def test_the_text_lists_what_differs():
    match = Match(model(), {"weight": torch.ones(5, 3), "other": torch.ones(1)})
    assert match.text() == (
        "0.0 % of the weights matched; 1 missing (bias); 1 unexpected (other); "
        "1 other shape (weight (5, 3) instead of (2, 3))"
    )


def test_the_text_lists_at_most_three_names():
    match = Match(model(), STATE | {f"more{i}": torch.ones(1) for i in range(4)})
    assert match.text().endswith("4 unexpected (more0, more1, more2, ...)")


@pytest.mark.parametrize("state", [{"weight": STATE["weight"]}, STATE | {"more": torch.ones(1)}])
def test_less_than_an_exact_match_is_refused(state):
    with pytest.raises(ConfigError, match="^KEY: a.pth does not fit the model: "):
        load_state(model(), state, "a.pth", "KEY", partial=False)


@pytest.mark.parametrize("state", [{"weight": STATE["weight"]}, STATE | {"more": torch.ones(1)}])
def test_when_allowed_what_fits_is_loaded(state):
    net = model()
    load_state(net, state, "a.pth", "KEY", partial=True)
    assert torch.equal(net.weight, STATE["weight"])


def test_a_refused_state_leaves_the_model_unchanged():
    net = model()
    before = net.weight.clone()
    with pytest.raises(ConfigError):
        load_state(net, {"weight": STATE["weight"]}, "a.pth", "KEY", partial=False)
    assert torch.equal(net.weight, before)
