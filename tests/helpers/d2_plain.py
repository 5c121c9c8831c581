"""Detectron2's own training, which kd2 has no part in, for comparison with runs that distill nothing."""

import contextlib
import io
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetMapper, build_detection_train_loader, get_detection_dataset_dicts
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import DefaultTrainer
from detectron2.utils.env import seed_all_rng
from torch import Tensor

from kd2.data.seeding import seeded
from kd2.engine.detectron2.data import register


class SeededMapper:
    """Detectron2's mapper whose draws for the n-th sample come from (seed, n), as those of a run of kd2."""

    def __init__(self, cfg: CfgNode):
        self.mapper, self.seed, self.samples = DatasetMapper(cfg, True), cfg.SEED, 0

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        self.samples += 1
        with seeded(self.seed, self.samples - 1):
            return self.mapper(record)


class PlainTrainer(DefaultTrainer):
    """Detectron2's trainer and loader, in the order of ``SEED``."""

    @classmethod
    def build_train_loader(cls, cfg: CfgNode) -> Any:
        records = get_detection_dataset_dicts(list(cfg.DATASETS.TRAIN))
        return build_detection_train_loader(
            records,
            mapper=SeededMapper(cfg),
            sampler=TrainingSampler(len(records), seed=cfg.SEED),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            seed=cfg.SEED,  # the loader draws a number; without a seed it would be one of the model's
        )


def plain_weights(cfg: CfgNode) -> dict[str, Tensor]:
    """The model's weights after Detectron2 alone trained it."""
    register(cfg, cfg.DATASETS.TRAIN)
    seed_all_rng(cfg.SEED)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = PlainTrainer(cfg)
        trainer.train()
    return trainer.model.state_dict()
