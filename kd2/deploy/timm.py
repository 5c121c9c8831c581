"""timm's classifiers with what stands around them."""

import numpy as np
import torch
from torch import Tensor, nn

from kd2.data.classification.batches import Batch
from kd2.data.classification.image_dataset import ImageDataset
from kd2.data.classification.mixup import unit_pixels
from kd2.deploy.pixels import resized, sides
from kd2.deploy.predictor import Found, Predictor, facts_of
from kd2.deploy.test_set import Scores, TestSet
from kd2.engine.lightning.classification.evaluation import Logits
from kd2.engine.lightning.classification.experiment import ClassificationExperiment


def predictor(experiment: ClassificationExperiment, student: nn.Module) -> Predictor:
    """The student of a run as what predicts."""
    return _Classifier(experiment, student)


# Of the shorter sides of pictures: a square of it is far above what Pillow opens.
_LONGEST = 1 << 15


class _Classifier(Predictor):
    """The central crop of evaluation, see ``kd2.data.classification.crops``; the scores are probabilities."""

    any_batch = True

    def __init__(self, experiment: ClassificationExperiment, student: nn.Module):
        cfg = experiment.cfg
        classes = experiment.classes.get("images", cfg.MODEL.CLASSES)
        super().__init__(student, facts_of(cfg, "classification", cfg.MODEL.NAME, classes), False)
        self.size, self.normalize = cfg.INPUT.SIZE, experiment.normalize
        # By the shorter side. A table, since runtimes divide in float32 and round halves otherwise than evaluation.
        self.cuts = torch.tensor([max(round(side / cfg.INPUT.TEST_SCALE), 1) for side in range(_LONGEST)])

    def found(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = sides(images)
        side = self.cuts.to(images.device)[torch.minimum(height, width)]
        top, left = (height - side) // 2, (width - side) // 2
        cut = images[:, :, top : top + side, left : left + side]
        pixels = unit_pixels(resized(cut, self.size, self.size))
        return (self.student(self.normalize(pixels)).softmax(1),)


def test_set(experiment: ClassificationExperiment, data: ImageDataset) -> TestSet:
    """A test set of a run with its evaluator."""
    return _Images(experiment, data)


class _Images(TestSet):
    def __init__(self, experiment: ClassificationExperiment, data: ImageDataset):
        self.data, self.evaluator = data, experiment.evaluator(data)

    def __len__(self) -> int:
        return len(self.data)

    def picture(self, index: int) -> np.ndarray:
        return self.data.pixels(index).permute(1, 2, 0).numpy()

    def take(self, index: int, found: Found) -> None:
        labels, scores = torch.tensor([int(self.data.labels[index])]), torch.from_numpy(found["scores"])[None]
        self.evaluator.process(Batch(scores, None, labels, None), Logits(scores.log(), None))

    def scores(self) -> Scores:
        return self.evaluator.evaluate()
