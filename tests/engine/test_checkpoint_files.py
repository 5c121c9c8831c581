"""Checkpoint files: written all or nothing, matched by name and shape."""

import pytest
import torch
from torch import nn

from kd2.distill import ConfigError
from kd2.engine.checkpoint import (
    Match,
    check_writable,
    last_checkpoint,
    load_state,
    save_atomically,
    tag_last_checkpoint,
)

STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}


def model() -> nn.Linear:
    return nn.Linear(3, 2)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_failed_save_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch, error):
    (tmp_path / "a.pth").write_bytes(b"old")

    def fail(_content, file):
        file.write(b"half")
        raise error

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError):
        save_atomically({}, str(tmp_path / "a.pth"))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.pth": b"old"}


def test_what_torch_makes_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def fail(_content, _file):
        raise RuntimeError("PytorchStreamWriter failed writing file. And more")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match=r"a.pth could not be written \(PytorchStreamWriter failed writing file\)$"):
        save_atomically({}, str(tmp_path / "a.pth"))


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "a.pth").write_bytes(b"old")

    def interrupt(_content, _file):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({}, str(tmp_path / "a.pth"))
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]


def test_a_new_run_has_no_last_checkpoint(tmp_path):
    assert last_checkpoint(str(tmp_path)) is None


def test_the_last_checkpoint_is_the_one_tagged_last(tmp_path):
    for name in ("b.pth", "a.pth"):
        tag_last_checkpoint(str(tmp_path / name))
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "a.pth")


def test_a_moved_run_still_finds_its_checkpoint(tmp_path):
    (tmp_path / "old").mkdir()
    tag_last_checkpoint(str(tmp_path / "old" / "a.pth"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert last_checkpoint(str(tmp_path / "new")) == str(tmp_path / "new" / "a.pth")


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []


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


@pytest.mark.parametrize(("kind", "text"), [(torch.int64, "torch.int64 instead of torch.float32")])
def test_whole_numbers_are_no_weights_of_a_model_of_floats(kind, text):
    with pytest.raises(ConfigError, match=rf"2 other type \(weight {text}, bias"):
        load_state(model(), {k: v.to(kind) for k, v in STATE.items()}, "a.pth", "KEY", partial=False)


def test_a_refused_state_leaves_the_model_unchanged():
    net = model()
    before = net.weight.clone()
    with pytest.raises(ConfigError):
        load_state(net, {"weight": STATE["weight"]}, "a.pth", "KEY", partial=False)
    assert torch.equal(net.weight, before)
