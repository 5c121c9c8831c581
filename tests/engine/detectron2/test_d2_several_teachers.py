"""Two teachers of a Detectron2 detector; one of them knows other classes."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch

from ...helpers.d2_tiny import train, write_pair

TAPS = ["fpn=backbone", "cls=head.cls_score"]


def test_a_run_learns_from_both(data, tmp_path):
    second = {"CONFIG_FILE": "teacher.yaml", "WEIGHTS": "teacher.pth", "CLASSES": ["bar", "dog"], "WEIGHT": 0.5}
    kd = {"TAPS": TAPS, "TEACHERS": [second], "LOSSES": {"logits": {"TAP": "cls", "WEIGHT": 0.1}}}
    kd["TEACHER"] = {"CLASSES": ["box", "bar"]}
    train(write_pair(tmp_path, data, {"KD": kd, "SOLVER": {"MAX_ITER": 1, "STEPS": []}}))
    content = torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)
    assert {name.split(".")[0] for name in content["adapters"]} == {"imitation", "imitation_teacher2"}
    metrics = (tmp_path / "out" / "metrics.json").read_text()
    assert "loss_logits_teacher2" in metrics and "loss_imitation_teacher2" in metrics
