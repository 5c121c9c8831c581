"""What ``--resume`` does with a config that is not the run's: every key is applied, refused or free."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import yaml
from fvcore.common.config import CfgNode

from kd2.config.merging import leaves
from kd2.distill import ConfigError

APPLIED, REFUSED, FREE = "applied", "refused", "free"

# Key, or group of keys, -> what becomes of another value than the run's. The longest name that fits counts; a key that
# is not here is refused. Applied: from the next iteration on, and said. Free: it played its part before the first one.
FATES = {
    "VERSION": FREE,
    "MODEL.WEIGHTS": FREE,
    "MODEL.BACKBONE.WEIGHTS": FREE,
    "MODEL.PRETRAINED": FREE,
    "MODEL.TIMM.PRETRAINED": FREE,
    "KD.INIT_FROM_TEACHER": FREE,
    "KD.INIT_FROM_TEACHER_PARTIAL": FREE,
    "KD.TEACHER.CLASSES": FREE,
    "DATASETS.ALLOW_OUTSIDE": FREE,
    "KD.TEACHER.ALLOW_PARTIAL": FREE,
    "MODEL.CHANNELS_LAST": APPLIED,
    "KD.TEACHER.CHANNELS_LAST": APPLIED,
    "KD.TEACHER.COMPILE": APPLIED,
    # Where the run computes, and what it leaves.
    "OUTPUT_DIR": APPLIED,
    "MODEL.DEVICE": APPLIED,
    "CUDNN_BENCHMARK": APPLIED,
    "VIS_PERIOD": APPLIED,
    "DATALOADER.NUM_WORKERS": APPLIED,
    "SOLVER.CHECKPOINT_PERIOD": APPLIED,
    "SOLVER.CHECKPOINT_EPOCHS": APPLIED,
    "SOLVER.KEEP_CHECKPOINTS": APPLIED,
    # Length, rates and their schedule.
    "SOLVER.MAX_ITER": APPLIED,
    "SOLVER.MAX_EPOCHS": APPLIED,
    "SOLVER.BASE_LR": APPLIED,
    "SOLVER.BASE_LR_END": APPLIED,
    "SOLVER.BIAS_LR_FACTOR": APPLIED,
    "SOLVER.WEIGHT_DECAY": APPLIED,
    "SOLVER.WEIGHT_DECAY_NORM": APPLIED,
    "SOLVER.WEIGHT_DECAY_BIAS": APPLIED,
    "SOLVER.MOMENTUM": APPLIED,
    "SOLVER.NESTEROV": APPLIED,
    "SOLVER.LR_SCHEDULER_NAME": APPLIED,
    "SOLVER.STEPS": APPLIED,
    "SOLVER.STEPS_EPOCHS": APPLIED,
    "SOLVER.GAMMA": APPLIED,
    "SOLVER.NUM_DECAYS": APPLIED,
    "SOLVER.POLY_LR_POWER": APPLIED,
    "SOLVER.POLY_LR_CONSTANT_ENDING": APPLIED,
    "SOLVER.WARMUP_FACTOR": APPLIED,
    "SOLVER.WARMUP_ITERS": APPLIED,
    "SOLVER.WARMUP_EPOCHS": APPLIED,
    "SOLVER.WARMUP_METHOD": APPLIED,
    "SOLVER.RESCALE_INTERVAL": APPLIED,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": APPLIED,
    # Evaluation, but for batch norm statistics that are estimated anew: they are a part of the student.
    "TEST": APPLIED,
    "TEST.PRECISE_BN": REFUSED,
    "DATASETS.TEST": APPLIED,
    "INPUT.MIN_SIZE_TEST": APPLIED,
    "INPUT.MAX_SIZE_TEST": APPLIED,
    "INPUT.TEST_SCALE": APPLIED,
    "MODEL.RETINANET.SCORE_THRESH_TEST": APPLIED,
    "MODEL.RETINANET.NMS_THRESH_TEST": APPLIED,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": APPLIED,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": APPLIED,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": APPLIED,
}
_CUSTOM = "DATASETS.CUSTOM."  # refused for the data sets that are trained on
_RATES = ("initial_lr", "weight_decay", "momentum", "nesterov")
ABSENT = "not given"

Entry = Mapping[str, Any]


def check_resume(entry: Entry, iteration: int, cfg: CfgNode, classes: dict[str, list[str]]) -> list[str]:
    """Compare the run that wrote a checkpoint with the one that is to go on from it.

    Args:
        entry: ``kd2`` of the checkpoint, see ``kd2.engine.weights.checkpoint``.
        iteration: the last one that was done, from 0.
        cfg: today's config, with everything in it that the data decide.
        classes: today's names by kind.

    Returns:
        A line for every value that is applied from the next iteration on.

    Raises:
        ConfigError: a value differs that a run cannot change, or the run is past ``SOLVER.MAX_ITER``; names them all.
    """
    applied: list[str] = []
    refused: list[str] = []
    for key, was, now in differences(yaml.safe_load(entry["config"]), yaml.safe_load(cfg.dump())):
        fate = APPLIED if _moved(was, now) else fate_of(key, cfg)
        if fate != FREE:
            (applied if fate == APPLIED else refused).append(f"{key} was {was}, is {now}")
    if entry["classes"] != classes:
        refused.append(f"class names were {entry['classes']}, are {classes}")
    if refused:
        raise ConfigError(
            f"--resume: {'; '.join(refused)}; a run keeps these to its end: give the old values, or start another run"
        )
    if cfg.MODEL.EMA.ENABLED and "raw_model" not in entry:
        raise ConfigError("--resume: MODEL.EMA.ENABLED is True, but the checkpoint has no kd2.raw_model to train on")
    if iteration >= cfg.SOLVER.MAX_ITER:
        raise ConfigError(
            f"--resume: SOLVER.MAX_ITER is {cfg.SOLVER.MAX_ITER}, the checkpoint has {iteration + 1} iterations behind "
            "it; expected at least as many"
        )
    return [f"{text} from iteration {iteration + 1} on" for text in applied]


def fate_of(key: str, cfg: CfgNode) -> str:
    """``applied``, ``refused`` or ``free``: what becomes of another value of ``key`` than the run's."""
    if key.startswith(_CUSTOM):
        trained = [*cfg.DATASETS.TRAIN, *cfg.KD.get("UNLABELED", {}).get("DATASETS", ())]
        return REFUSED if any(key.startswith(f"{_CUSTOM}{name}.") for name in trained) else APPLIED
    parts = key.split(".")
    names = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((FATES[name] for name in names if name in FATES), REFUSED)


def differences(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key, old and new value (as they are shown) of everything that two configs do not share."""
    old, new = dict(leaves(was)), dict(leaves(now))
    for key in [*old, *(key for key in new if key not in old)]:
        before, after = (repr(side[key]) if key in side else ABSENT for side in (old, new))
        if before != after:
            yield key, before, after


def rates_of(optimizer: torch.optim.Optimizer) -> list[dict[str, Any]]:
    """What the config decides in each parameter group of an optimizer whose scheduler was built."""
    return [{name: group[name] for name in _RATES if name in group} for group in optimizer.param_groups]


def apply_rates(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler, rates: list[dict[str, Any]]
) -> None:
    """Undo what a checkpoint brought back of ``rates_of``; the schedule goes on from its iteration."""
    for group, today in zip(optimizer.param_groups, rates, strict=True):
        group.update(today)
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    steps, scheduler._step_count = scheduler._step_count, 2  # past the first one, at which PyTorch checks the order
    scheduler.last_epoch -= 1
    scheduler.step()
    scheduler._step_count = steps


def _moved(was: str, now: str) -> bool:
    """Whether two shown values are absolute paths of one file, which lies elsewhere now."""
    old, new = was.strip("'\""), now.strip("'\"")
    absolute = os.path.isabs(old) and os.path.isabs(new)
    return absolute and os.path.basename(old) == os.path.basename(new) and not os.path.exists(old)
