"""Without losses, training is plain Detectron2 training bit for bit."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch
from detectron2.engine import DefaultTrainer

from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.trainer import Trainer

from ...helpers.d2_tiny import DETECTORS, different, load_config, write_config

LONG = {"SOLVER": {"MAX_ITER": 20, "STEPS": [15], "CHECKPOINT_PERIOD": 100}}


class PlainTrainer(DefaultTrainer):
    """Detectron2's trainer on the same batches."""

    @classmethod
    def build_train_loader(cls, cfg):
        return train_loader(cfg)


def trained(trainer_class, cfg) -> torch.nn.Module:
    torch.manual_seed(cfg.SEED)
    trainer = trainer_class(cfg)
    trainer.train()
    return trainer.model


@pytest.fixture(scope="module", params=DETECTORS)
def plain(request, data, tmp_path_factory):
    """The config of a detector, and the weights after 20 iterations of Detectron2 alone."""
    folder = tmp_path_factory.mktemp("plain")
    path = write_config(folder, data, LONG, detector=DETECTORS[request.param])
    cfg = load_config(path)
    cfg.MODEL.META_ARCHITECTURE = request.param
    return path, trained(PlainTrainer, cfg).state_dict()


@pytest.mark.parametrize("options", [[], ["KD.LOSSES.imitation.WEIGHT", "0"]], ids=["no losses", "weight 0"])
def test_20_iterations_equal_plain_training(plain, options):
    path, expected = plain
    model = trained(Trainer, load_config(path, options))
    assert different(model.student.state_dict(), expected) == []
