"""Losses: one published idea a file, its formula first, then the module that feeds it.

Importing this package registers all of them; ``kd2.losses.blocks`` builds them from a config.
"""

from kd2.losses import dense_kd, dist, dkd, features, fgd, holistic, imitation, kl, mgd, pairwise, pkd, roi_kd, tat
from kd2.losses.blocks import active_losses, build_losses, check_losses, class_losses
from kd2.losses.registry import import_losses, loss_types, register_loss

__all__ = [
    "active_losses",
    "build_losses",
    "check_losses",
    "class_losses",
    "dense_kd",
    "dist",
    "dkd",
    "features",
    "fgd",
    "holistic",
    "imitation",
    "import_losses",
    "kl",
    "loss_types",
    "mgd",
    "pairwise",
    "pkd",
    "register_loss",
    "roi_kd",
    "tat",
]
