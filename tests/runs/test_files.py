"""Files are whole or not there."""

import pytest
import torch

from kd2.runs.endings import Interrupted
from kd2.runs.files import save_atomically, write_atomically


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


def test_two_writers_of_one_name_do_not_share_their_temporary_file(tmp_path, monkeypatch):
    """The second one writes while the first one is at it."""
    path, inner = str(tmp_path / "a.pth"), torch.save

    def nested(content, file):
        monkeypatch.setattr(torch, "save", inner)
        save_atomically({"x": 2}, path)
        inner(content, file)

    monkeypatch.setattr(torch, "save", nested)
    save_atomically({"x": 1}, path)
    assert torch.load(path, weights_only=True) == {"x": 1} and len(list(tmp_path.iterdir())) == 1


def test_a_file_beside_it_that_is_called_partial_is_left_alone(tmp_path):
    (tmp_path / "a.yaml.partial").write_text("mine")
    write_atomically("text", str(tmp_path / "a.yaml"))
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.yaml": "text", "a.yaml.partial": "mine"}


def test_a_written_file_is_as_readable_as_any_other(tmp_path):
    (tmp_path / "plain").touch()
    write_atomically("text", str(tmp_path / "a.yaml"))
    assert (tmp_path / "a.yaml").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("first", "kind", "text"),
    [
        (Interrupted(2), Interrupted, ""),
        (RuntimeError("DataLoader worker (pid 1) is killed"), RuntimeError, "DataLoader worker"),
        (OSError(28, "No space left on device"), OSError, r"a.pth could not be written \(No space left on device\)$"),
    ],
)
def test_what_torchs_writer_was_broken_off_by_is_told_not_what_it_makes_of_it(tmp_path, monkeypatch, first, kind, text):
    def fail(_content, _file):
        try:
            raise first
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(kind, match=text):
        save_atomically({}, str(tmp_path / "a.pth"))
