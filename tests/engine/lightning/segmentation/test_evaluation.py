"""Metrics of segmentation."""

import math

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("torchmetrics", reason="needs torchmetrics")

import torch

from kd2.engine.lightning.run import experiment_for
from kd2.engine.lightning.segmentation.data import Batch
from kd2.engine.lightning.segmentation.evaluation import SemSegEvaluator, score

from ....helpers import tiny_segmentation as tiny


class Colors(torch.nn.Module):
    """Finds the class by the brightest channel, pixel by pixel; ``seen`` has the sizes it was asked for."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def normalized(self, images, size):
        return torch.stack(images).float()

    def forward(self, x):
        self.seen.append(tuple(x.shape[2:]))
        nothing = torch.full_like(x[:, :2], -1.0)
        return {"out": torch.cat([torch.full_like(x[:, :1], 150.0), x[:, 1:], nothing], 1)}


def evaluated(data, student: Colors, **test) -> dict[str, float]:
    cfg = tiny.config({"DATASETS": {"TEST": ["drawn"]}, "TEST": test}, data)
    experiment = experiment_for(cfg)
    (records,) = experiment.load_data("TEST")
    evaluator = experiment.evaluator(records)
    for batch in experiment.test_loader(records, rank=0, ranks=1):
        moved = batch.to(torch.device("cpu"))
        evaluator.process(moved, experiment.predict(student, moved))
    scores = evaluator.evaluate()
    assert list(scores) == evaluator.names()
    return scores


def test_a_student_that_is_right_everywhere(semantic_data):
    metrics = evaluated(semantic_data, Colors())
    assert metrics["sem_seg/mIoU"] == metrics["sem_seg/pACC"] == metrics["sem_seg/IoU-box"] == 100.0
    assert math.isnan(metrics["sem_seg/IoU-bird"]) and math.isnan(metrics["sem_seg/ACC-bird"])


def test_windows_are_what_the_config_says(semantic_data):
    student = Colors()
    metrics = evaluated(semantic_data, student, WINDOW={"SIZE": [32, 40], "STRIDE": [16, 40]})
    assert set(student.seen) == {(32, 40)} and metrics["sem_seg/mIoU"] == 100.0


def test_intersection_over_union_by_hand():
    """Rows are labels, columns what was found."""
    metrics = score(torch.tensor([[6, 2], [1, 3]]), ["a", "b"])
    assert metrics["sem_seg/IoU-a"] == pytest.approx(100 * 6 / 9) and metrics["sem_seg/IoU-b"] == pytest.approx(50.0)
    assert metrics["sem_seg/mIoU"] == pytest.approx(100 * (6 / 9 + 3 / 6) / 2)
    assert metrics["sem_seg/fwIoU"] == pytest.approx(100 * (6 / 9 * 8 + 3 / 6 * 4) / 12)
    assert metrics["sem_seg/mACC"] == pytest.approx(75.0) and metrics["sem_seg/pACC"] == pytest.approx(75.0)


def test_the_numbers_are_detectron2s():
    """Class 3 is found but has no labels, class 4 has labels and is never found, class 5 does not occur at all."""
    pytest.importorskip("detectron2", reason="compares with Detectron2")
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.evaluation import SemSegEvaluator as Theirs

    torch.manual_seed(0)
    classes = [f"c{i}" for i in range(6)]
    labels = torch.tensor([0, 1, 2, 4, 255])[torch.randint(0, 5, (3, 20, 30))]
    scores = torch.randn(3, 6, 20, 30)
    scores[:, 4:] = -9
    name = "kd2_compared"
    DatasetCatalog.register(name, lambda: [{"file_name": f"{i}", "sem_seg_file_name": f"{i}"} for i in range(3)])
    try:
        MetadataCatalog.get(name).set(stuff_classes=classes, ignore_label=255)
        theirs = Theirs(
            name, distributed=False, sem_seg_loading_fn=lambda file, dtype: labels[int(file)].numpy().astype(dtype)
        )
        theirs.reset()
        theirs.process([{"file_name": f"{i}"} for i in range(3)], [{"sem_seg": x} for x in scores])
        expected = theirs.evaluate()["sem_seg"]
    finally:
        DatasetCatalog.remove(name), MetadataCatalog.remove(name)
    own = SemSegEvaluator(classes)
    own.process(Batch([], labels, [], (20, 30)), scores.argmax(1))
    found = own.evaluate()
    wanted = {f"sem_seg/{key}": value for key, value in expected.items() if "Bound" not in key and "B-I" not in key}
    assert found == pytest.approx(wanted, nan_ok=True) and 0 < found["sem_seg/mIoU"] < 100


def test_everything_is_nan_where_nothing_is_labeled():
    metrics = score(torch.zeros(2, 2), ["sky", "road"])
    assert all(math.isnan(x) for x in metrics.values())


def test_classes_that_never_occur_are_named(caplog):
    evaluator = SemSegEvaluator(["sky", "road", "train"])
    evaluator.process(Batch([], torch.tensor([[[0, 1, 255]]]), [], (1, 3)), torch.tensor([[[0, 1, 2]]]))
    evaluator.evaluate()
    assert "mIoU is the mean without 1 classes that never occur: train" in caplog.text
