"""When the teacher is not built at all."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")


from kd2.distill import DataError
from kd2.engine.lightning.detection.experiment import DetectionExperiment

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny


@pytest.fixture
def no_teacher(monkeypatch):
    def build_none(*_):
        raise AssertionError("the teacher was built")

    monkeypatch.setattr(DetectionExperiment, "build_teacher", build_none)


def test_a_loss_needs_the_teacher(build, no_teacher):
    with pytest.raises(AssertionError, match="the teacher was built"):
        build()


def test_without_losses_the_teacher_is_not_built(build, no_teacher):
    assert build("KD.LOSSES", "{}").teacher is None


def test_with_weight_0_the_teacher_is_not_built(build, no_teacher):
    assert build("KD.LOSSES.imitation.WEIGHT", "0").teacher is None


def test_for_evaluation_the_teacher_is_not_built(tmp_path, data, teacher, no_teacher):
    runs.train(tiny.write_config(tmp_path, data), "SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "[]")
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher), "distilled")
    weights = str(tmp_path / "out" / "model_final.pth")
    metrics = runs.train(config, "MODEL.WEIGHTS", weights, "DATASETS.TEST", "['tiny']", eval_only=True)
    assert "bbox/AP" in metrics


def test_a_missing_data_set_is_found_before_the_teacher_is_built(tmp_path, data, teacher, no_teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    with pytest.raises(DataError, match="gone.json does not exist"):
        runs.train(config, "DATASETS.CUSTOM.tiny.JSON", "gone.json")
