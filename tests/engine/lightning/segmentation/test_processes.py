"""A segmentation network in two processes."""

from pathlib import Path

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from ....helpers import lightning_runs as runs
from ....helpers import tiny_segmentation as tiny
from ....helpers.launch import in_two_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def config(tmp_path_factory, semantic_data, psp_teacher):
    unlabeled = {"DATASETS": ["more"], "IMS_PER_BATCH": 2}
    changes = {
        "KD": {"UNLABELED": unlabeled},
        "DATASETS": {"TEST": ["drawn"]},
        "SOLVER": {"IMS_PER_BATCH": 4, "CHECKPOINT_PERIOD": 3},
    }
    return tiny.write_config(tmp_path_factory.mktemp("two"), semantic_data, tiny.distilled(psp_teacher, changes))


@pytest.fixture(scope="module")
def seen(config):
    """What the two processes saw."""
    return in_two_processes(config)


def test_gradients_are_equal_in_both_processes(seen):
    differ = [runs.same(a, b) for a, b in zip(seen[0]["steps"], seen[1]["steps"], strict=True)]
    assert len(differ) == 4 and not any(differ)


def test_every_process_has_its_share_of_labeled_and_unlabeled_images(seen):
    assert [len(s["files"]) for s in seen] == [4 * 3] * 2


def test_both_processes_have_the_scores_of_the_whole_test_set(seen, config):
    weights = str(Path(config).parent / "out" / "model_final.pth")
    alone = runs.train(config, "MODEL.WEIGHTS", weights, eval_only=True)
    assert [s["results"] for s in seen] == [pytest.approx(alone, nan_ok=True)] * 2
