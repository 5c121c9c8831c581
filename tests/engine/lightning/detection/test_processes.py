"""Training in two processes: one gradient, every record seen once, one set of scores."""

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers.launch import in_two_processes


@pytest.fixture(scope="module")
def config(tmp_path_factory, data, rcnn_teacher):
    changes = {"DATASETS": {"TEST": ["tiny"]}, "DATALOADER": {"ASPECT_RATIO_GROUPING": False}}
    changes = tiny.distilled(rcnn_teacher, runs.merged(tiny.FASTER_RCNN, changes))
    return tiny.write_config(tmp_path_factory.mktemp("two"), data, changes)


@pytest.fixture(scope="module")
def seen(config):
    """What the two processes saw."""
    return in_two_processes(config)


def test_gradients_are_equal_in_both_processes(seen):
    differ = [runs.same(a, b) for a, b in zip(seen[0]["steps"], seen[1]["steps"], strict=True)]
    assert len(differ) == 6 and not any(differ)


def test_the_adapters_are_among_the_gradients(seen):
    step = seen[0]["steps"][-1]
    assert any(name.startswith("losses.imitation.adapters.") and grad.abs().sum() > 0 for name, grad in step.items())


def test_an_epoch_is_shared_out(seen):
    """One image a process and step: six steps are two epochs of six images."""
    assert sorted(seen[0]["files"][:3] + seen[1]["files"][:3]) == [f"{i}.png" for i in range(6)]


def test_both_processes_have_the_scores_of_the_whole_test_set(seen, config):
    weights = str(Path(config).parent / "out" / "model_final.pth")
    alone = runs.train(config, "MODEL.WEIGHTS", weights, eval_only=True)
    assert [s["results"] for s in seen] == [pytest.approx(alone, nan_ok=True)] * 2


def test_two_resumed_processes_equal_two_that_were_not_interrupted(seen, config):
    folder = Path(config).parent
    assert runs.same(runs.weights(folder / "out"), runs.weights(folder / "resumed")) == []
