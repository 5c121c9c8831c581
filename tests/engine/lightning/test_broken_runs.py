"""A run that breaks off loses nothing that it had saved."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2.distill import NonFiniteLoss
from kd2.losses.imitation import Imitation

from ...helpers import lightning_runs as runs
from ...helpers import tiny_detection


@pytest.fixture
def student(tmp_path, data):
    """The config of a plain run of 6 iterations with checkpoints at 3 and 6."""
    return tiny_detection.write_config(tmp_path, data)


def checkpoints(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").iterdir() if path.suffix in (".pth", ".partial"))


@pytest.fixture
def nan_at_4(tmp_path, data, teacher, monkeypatch):
    """A distilled run whose loss becomes NaN at iteration 4."""
    forward = Imitation.forward

    def broken(self, student, teacher, batch_info):
        return forward(self, student, teacher, batch_info) * (float("nan") if batch_info.iteration == 4 else 1.0)

    monkeypatch.setattr(Imitation, "forward", broken)
    return tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))


def test_a_nan_loss_stops_the_run_with_iteration_and_name(nan_at_4):
    text = "^loss_imitation became NaN or infinite at iteration 4; the last checkpoint is kept$"
    with pytest.raises(NonFiniteLoss, match=text):
        runs.train(nan_at_4)


def test_after_a_nan_loss_the_last_checkpoint_is_there(nan_at_4, tmp_path):
    with pytest.raises(NonFiniteLoss):
        runs.train(nan_at_4)
    assert checkpoints(tmp_path) == ["model_0000003.pth"]


def test_weights_that_are_not_finite_are_not_saved(tmp_path, data, teacher, monkeypatch):
    """The loss is finite, its gradient is not: a square root at 0."""
    monkeypatch.setattr(Imitation, "forward", lambda self, maps, *_: (maps[0] - maps[0].detach()).sum().square().sqrt())
    config = tiny_detection.write_config(tmp_path, data, tiny_detection.distilled(teacher))
    text = r"weights became NaN or infinite by iteration 1 \(student.*; the last checkpoint"
    with pytest.raises(NonFiniteLoss, match=text):
        runs.train(config, "SOLVER.CHECKPOINT_PERIOD", "1")
    assert checkpoints(tmp_path) == []


@pytest.fixture
def full_disk_at_6(monkeypatch):
    """Writing the checkpoint of iteration 6 runs out of space after some bytes."""
    save = torch.save

    def fill(content, file, *args, **kwargs):
        if isinstance(content, dict) and content.get("iteration") == 5:
            file.write(b"some bytes")
            raise OSError(28, "No space left on device")
        save(content, file, *args, **kwargs)

    monkeypatch.setattr(torch, "save", fill)


def test_a_full_disk_ends_the_run(student, full_disk_at_6):
    with pytest.raises(OSError, match="No space left on device"):
        runs.train(student)


def test_a_full_disk_leaves_the_older_checkpoint_and_no_rest(student, full_disk_at_6, tmp_path):
    with pytest.raises(OSError):
        runs.train(student)
    last = (tmp_path / "out" / "last_checkpoint").read_text()
    assert (checkpoints(tmp_path), last) == (["model_0000003.pth"], "model_0000003.pth")


def test_after_a_full_disk_the_run_can_be_resumed(student, tmp_path, monkeypatch, request):
    with monkeypatch.context():
        request.getfixturevalue("full_disk_at_6")
        with pytest.raises(OSError):
            runs.train(student)
        monkeypatch.undo()
    runs.train(student, resume=True)
    assert checkpoints(tmp_path) == ["model_0000003.pth", "model_0000006.pth", "model_final.pth"]
