"""Test-time augmentation: TEST.AUG."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")


from kd2.distill import ConfigError
from kd2.engine import dry_run

from ...helpers.d2_tiny import FASTER_RCNN, train, write_config, write_pair

ON = ["DATASETS.TEST", "['tiny']", "TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(64, 80)"]


def test_its_results_stand_beside_those_of_single_views(data, tmp_path):
    pair = write_pair(tmp_path, data, detector=FASTER_RCNN)
    options = ["OUTPUT_DIR", str(tmp_path / "out"), "SOLVER.MAX_ITER", "2", *ON]
    trained = train(pair, *options)
    assert {"bbox/AP", "bbox_TTA/AP", "bbox_TTA/AP50"} <= trained.keys()
    assert train(pair, *options, eval_only=True, resume=True) == pytest.approx(trained, nan_ok=True)
    with dry_run(pair, [*options, "TEST.BEST", "bbox_TTA/AP50"]):
        pass  # the metric is known before it was ever computed
    boxes = [(tmp_path / "out" / folder / "coco_instances_results.json") for folder in ("inference", "inference_TTA")]
    assert boxes[0].read_text() != boxes[1].read_text()


@pytest.mark.parametrize("eval_only", [False, True])
def test_a_model_without_it_is_named_before_training(retinanets, tmp_path, eval_only):
    weights = retinanets.replace("student.yaml", "teacher.pth")
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED is True, RetinaNet has no test-time augmentation"):
        train(retinanets, "OUTPUT_DIR", str(tmp_path), "MODEL.WEIGHTS", weights, *ON, eval_only=eval_only)


def test_proposals_from_a_file_exclude_it(data, tmp_path):
    config = write_config(tmp_path, data, {"MODEL": {"LOAD_PROPOSALS": True}}, detector=FASTER_RCNN)
    with pytest.raises(ConfigError, match="TEST.AUG.ENABLED and MODEL.LOAD_PROPOSALS are both True"):
        train(config, "OUTPUT_DIR", str(tmp_path / "out"), "KD.LOSSES", "{}", *ON)
