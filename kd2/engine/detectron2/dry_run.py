"""A trial of a Detectron2 config: both models and one batch."""

import contextlib
from collections.abc import Iterator

from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import nn

from kd2.engine.detectron2.checkpoint import CheckedCheckpointer
from kd2.engine.detectron2.config import load_config
from kd2.engine.detectron2.data import register, train_loader
from kd2.engine.detectron2.distiller import Distiller, build_parts
from kd2.engine.detectron2.models import BODY, check_data_classes, class_keys
from kd2.engine.init_student import initialize
from kd2.engine.dry_run import Trial
from kd2.distill import ConfigError


@contextlib.contextmanager
def trial(config_file: str, options: list[str]) -> Iterator[Trial]:
    """Build what training would build, and fetch its first batch. Raises like training would."""
    cfg = load_config(config_file, options)
    cfg.DATALOADER.NUM_WORKERS = 0
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()
    register(cfg, cfg.DATASETS.TRAIN)
    parts, guide = build_parts(cfg)
    if guide is None:
        raise ConfigError("KD.LOSSES has no loss with a weight other than 0: there is no distillation to look at")
    student = parts["student"]
    check_data_classes(student, cfg, cfg.DATASETS.TRAIN)
    loader = CheckedCheckpointer(student, "MODEL.WEIGHTS", cfg.KD.ALLOW_PICKLE, partial=True)
    loader.load(cfg.MODEL.WEIGHTS)
    facts = {
        "classes": (_counts(student, cfg), _counts(guide.model, guide.cfg)),
        "color order": (cfg.INPUT.FORMAT, guide.cfg.INPUT.FORMAT),
        "matched weights": (_percent(loader.match.share) if loader.match else "from scratch", _percent(guide.matched)),
    }
    distiller = Distiller(**parts).to(cfg.MODEL.DEVICE).train()
    initialize(distiller, cfg, BODY)
    loaded = next(iter(train_loader(cfg)))
    yield Trial(distiller, lambda: loaded, facts)


def _counts(model: nn.Module, cfg: CfgNode) -> str:
    return ", ".join(f"{count} {kind}" for kind, (_, count) in class_keys(model, cfg).items())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
