"""What the keys of average and augmentation say together."""

from fvcore.common.config import CfgNode

from kd2.config.unread import architecture_of
from kd2.distill import ConfigError
from kd2.losses import active_losses


def check_training(cfg: CfgNode) -> None:
    """Raises ConfigError for a range that goes backwards, and for keys that cannot be given together."""
    if not cfg.KD.get("TASK_WEIGHT", 1):  # of classifiers alone
        for name in (name for name, block in active_losses(cfg.KD.LOSSES).items() if "WEIGHT" not in block):
            raise ConfigError(
                f"KD.LOSSES.{name} has a SHARE of the gradient of the student's own loss, and KD.TASK_WEIGHT is 0: "
                "there is none; give a WEIGHT"
            )
    if cfg.FRAMEWORK == "detectron2" and cfg.MODEL.EMA.ENABLED and cfg.TEST.PRECISE_BN.ENABLED:
        raise ConfigError(
            "MODEL.EMA.ENABLED and TEST.PRECISE_BN.ENABLED are both True: Detectron2's hook estimates the statistics "
            "of the student that trains, the average has those of its own"
        )
    if "SCALE_JITTER" in cfg.INPUT:  # classifiers have views
        _check_augmentation(cfg)


def _check_augmentation(cfg: CfgNode) -> None:
    if any(cfg.INPUT.COLOR_JITTER.values()) and cfg.INPUT.FORMAT not in ("RGB", "BGR"):
        raise ConfigError(f"INPUT.COLOR_JITTER is given and INPUT.FORMAT is {cfg.INPUT.FORMAT!r}, expected RGB or BGR")
    jitter = cfg.INPUT.SCALE_JITTER
    if architecture_of(cfg) == "PanopticDeepLab" and (jitter.ENABLED or any(cfg.INPUT.COLOR_JITTER.values())):
        key = "SCALE_JITTER.ENABLED" if jitter.ENABLED else "COLOR_JITTER"
        raise ConfigError(f"INPUT.{key} is given, but Detectron2's own augmentation of PanopticDeepLab has none of it")
    if not jitter.ENABLED:
        return
    low, high = jitter.RANGE
    if low > high:
        raise ConfigError(f"INPUT.SCALE_JITTER.RANGE is {[low, high]}, expected the smaller factor first")
    if low * min(jitter.SIZE) < 1:
        found = f"INPUT.SCALE_JITTER.RANGE begins at {low}"
        raise ConfigError(f"{found}, which leaves less than a pixel of SIZE {list(jitter.SIZE)}")
    if cfg.INPUT.CROP.ENABLED:
        raise ConfigError("INPUT.SCALE_JITTER.ENABLED and INPUT.CROP.ENABLED are both True: the jitter crops by itself")


def train_size(cfg: CfgNode) -> tuple[int, int] | None:
    """(H, W) that training crops to, by ``INPUT.SCALE_JITTER`` or ``INPUT.CROP``; None where it takes whole images."""
    if cfg.INPUT.SCALE_JITTER.ENABLED:
        return tuple(cfg.INPUT.SCALE_JITTER.SIZE)
    crop = cfg.INPUT.CROP
    return tuple(crop.SIZE) if crop.ENABLED and crop.TYPE == "absolute" else None
