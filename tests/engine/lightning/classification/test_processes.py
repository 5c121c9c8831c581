"""Training a classifier in two processes: one gradient, the images of one process, one set of scores."""

import itertools
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from ....helpers import lightning_runs as runs
from ....helpers import tiny_classification as tiny
from ....helpers.launch import in_two_processes

pytestmark = pytest.mark.slow

TAPS = {"TAPS": ["logits=@vector", "last=layer4"]}
CHANGES = {
    "DATASETS": {"TEST": ["tiny_test"]},
    "KD": {
        "STUDENT": TAPS,
        "TEACHER": TAPS,
        "LOSSES": {"hint": {"TAP": "last", "WEIGHT": 0.1, "REDUCTION": "mean"}},
    },
    "MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.9}},
    "TEST": {"EVAL_PERIOD": 3, "IMS_PER_BATCH": 2},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory, pictures, class_teacher):
    return tiny.write_config(tmp_path_factory.mktemp("two"), pictures, tiny.distilled(class_teacher, CHANGES, "ind/ic"))


@pytest.fixture(scope="module")
def seen(config):
    """What the two processes saw."""
    return in_two_processes(config)


def test_gradients_are_equal_in_both_processes(seen):
    differ = [runs.same(a, b) for a, b in zip(seen[0]["steps"], seen[1]["steps"], strict=True)]
    assert len(differ) == 6 and not any(differ)


def test_the_adapters_are_among_the_gradients(seen):
    assert any(name.startswith("losses.hint.") and x.abs().sum() > 0 for name, x in seen[0]["steps"][-1].items())


def test_both_processes_together_see_the_batches_of_one(seen, config):
    whole = [batch.images for batch in itertools.islice(runs.batches(config), 6)]
    assert all(torch.equal(w[rank::2], s) for rank in (0, 1) for w, s in zip(whole, seen[rank]["pixels"], strict=True))


def test_both_processes_score_one_network_on_the_way(seen):
    """Batch norm statistics included, of the student and of its moving average."""
    assert any(name.startswith("average.") for name in seen[0]["scored"])
    assert runs.same(seen[0]["scored"], seen[1]["scored"]) == []


def test_both_processes_have_the_scores_of_the_whole_test_set(seen, config):
    scores = seen[0]["results"]
    assert seen[1]["results"] == scores
    weights = str(Path(config).parent / "out" / "model_final.pth")
    alone = runs.train(config, "MODEL.WEIGHTS", weights, eval_only=True)
    assert alone["cls/top1"] == pytest.approx(scores["cls/top1"])


def test_two_resumed_processes_equal_two_that_were_not_interrupted(seen, config):
    folder = Path(config).parent
    assert runs.same(runs.weights(folder / "out"), runs.weights(folder / "resumed")) == []
