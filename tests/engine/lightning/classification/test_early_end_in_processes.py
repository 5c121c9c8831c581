"""Two processes whose run ends early, with a moving average: they agree on where."""

from pathlib import Path

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

from ....helpers import lightning_runs as runs
from ....helpers import tiny_classification as tiny
from ....helpers.launch import in_two_processes

MOST = 30
CHANGES = {
    "DATASETS": {"TEST": ["tiny_test"]},
    "MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.5}},
    "SOLVER": {"MAX_ITER": MOST},
    "TEST": {"EVAL_PERIOD": 1, "BEST": "cls/top1", "PATIENCE": 2, "IMS_PER_BATCH": 2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("two")


@pytest.fixture(scope="module")
def seen(folder, pictures):
    """What the two processes saw; they were resumed from step 3 as well."""
    return in_two_processes(tiny.write_config(folder, pictures, CHANGES))


def test_both_end_behind_the_same_evaluation_of_the_average(seen, folder: Path):
    content = runs.checkpoint(folder / "out")
    assert len(seen[0]["steps"]) == len(seen[1]["steps"]) == content["iteration"] + 1 < MOST
    assert content["kd2"]["best"]["waited"] == 2
    assert runs.same(content["model"], content["kd2"]["raw_model"]) and seen[0]["results"] == seen[1]["results"]


def test_resumed_they_end_alike(seen, folder: Path):
    whole, resumed = (runs.checkpoint(folder / name) for name in ("out", "resumed"))
    assert runs.same(whole["model"], resumed["model"]) == [] and whole["iteration"] == resumed["iteration"]
    assert runs.same(whole["kd2"]["raw_model"], resumed["kd2"]["raw_model"]) == []
