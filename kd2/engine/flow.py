"""Training, evaluation and dry run of every task, written once against ``Experiment``."""

import contextlib
import functools
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import nn

from kd2.config import teacher_blocks
from kd2.config.schedule import without_effect
from kd2.data.root import outside_allowed
from kd2.distill import ConfigError, Schedule
from kd2.engine.experiment import DataSet, DryRun, Experiment, Prepared, Scores
from kd2.engine.mixed_precision import forward_precision
from kd2.engine.pair import build_distiller
from kd2.engine.preflight import first_with_objects, start_up
from kd2.engine.weights.checkpoint import best_of, keep_final_as_best, saved_classes, saved_run
from kd2.losses import active_losses
from kd2.runs import endings, folder
from kd2.runs.best import Best
from kd2.runs.files import write_atomically
from kd2.runs.resume import check_resume

logger = logging.getLogger(__name__)


def run(experiment: Experiment) -> Scores:
    """Train, or with ``args.eval_only`` evaluate; returns the scores of the last evaluation.

    Raises:
        Fault: what is no user's error; its traceback is in ``OUTPUT_DIR``.
        Interrupted: SIGINT or SIGTERM came; it knows the run's last checkpoint.
    """
    cfg = experiment.cfg
    with endings.reported(cfg.OUTPUT_DIR), outside_allowed(cfg.DATASETS.ALLOW_OUTSIDE):
        return evaluate(experiment) if experiment.args.eval_only else train(experiment)


def train(experiment: Experiment) -> Scores:
    """Train from the beginning, or with ``args.resume`` from the last checkpoint of OUTPUT_DIR, which is locked."""
    cfg, args = experiment.cfg, experiment.args
    needed = [cfg.MODEL.WEIGHTS, *(block["WEIGHTS"] for block in teacher_blocks(cfg).values())]
    with folder.claimed(cfg.OUTPUT_DIR, args, needed) if experiment.first else contextlib.nullcontext():
        saved = folder.resumable(cfg.OUTPUT_DIR) if args.resume else None
        try:
            return _train(experiment, saved)
        except endings.Interrupted as end:
            raise endings.Interrupted(end.signum, folder.last_checkpoint(cfg.OUTPUT_DIR)) from None


def _train(experiment: Experiment, saved: str | None) -> Scores:
    output = experiment.cfg.OUTPUT_DIR
    prepared = prepare(experiment, saved)
    best = best_of(experiment.cfg, saved)
    if best.exhausted:
        logger.warning("--resume: the run had ended: %s", best.reason())
    scores = experiment.fit(prepared, saved, best)
    improved = best.beaten_by(scores) if scores else False
    if experiment.first and scores:
        if improved:
            keep_final_as_best(output, best)
        text = json.dumps({name: x if math.isfinite(x) else None for name, x in scores.items()}, indent=1)
        write_atomically(text, os.path.join(output, folder.RESULTS))
        best.check()
    return scores


def begin(experiment: Experiment, saved: str | None, best: Best) -> None:
    """The moment before the first file of a run is written, by the first process: see ``kd2.runs.folder.begin``."""
    cfg = experiment.cfg
    if not experiment.first:
        return
    folder.begin(cfg.OUTPUT_DIR, experiment.config_text(), experiment.args.overwrite)
    if saved and (best.exhausted or saved_run(saved)[1] + 1 == cfg.SOLVER.MAX_ITER):
        folder.keep_final(saved, cfg.OUTPUT_DIR)


def evaluate(experiment: Experiment) -> Scores:
    """Score the student of ``MODEL.WEIGHTS``, or with ``args.resume`` of the last checkpoint. No teacher is built."""
    cfg = experiment.cfg
    if experiment.args.overwrite:
        raise ConfigError("--overwrite is given with --eval-only, which writes over no run")
    saved = folder.resumable(cfg.OUTPUT_DIR) if experiment.args.resume else None
    if not (saved or cfg.MODEL.WEIGHTS):
        raise ConfigError("MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate")
    weights, key = (saved, "--resume") if saved else (cfg.MODEL.WEIGHTS, "MODEL.WEIGHTS")
    experiment.classes = saved_classes(weights, key)
    if not experiment.classes:
        logger.warning("%s: %s tells no class names, its outputs are taken for the test set's in order", key, weights)
    tests = experiment.load_data("TEST")
    experiment.check([], tests)
    return experiment.score(trained_student(experiment, weights, key), tests)


def trained_student(experiment: Experiment, weights: str, key: str) -> nn.Module:
    """The student with the weights of a file; ``key`` names that in errors."""
    student = experiment.build_student().module
    experiment.load_weights(student, weights, key, partial=False)
    return student


def data_sets(experiment: Experiment) -> dict[str, Callable[[], DataSet]]:
    """Name of every data set that a config names -> what reads it, which raises like training would.

    Raises:
        ConfigError: no data set is named.
    """
    cfg, found = experiment.cfg, {}
    unlabeled = cfg.KD.get("UNLABELED", {}).get("DATASETS", [])  # classifiers have no such key
    for key, names in {
        "DATASETS.TRAIN": cfg.DATASETS.TRAIN, "DATASETS.TEST": cfg.DATASETS.TEST, "KD.UNLABELED.DATASETS": unlabeled,
    }.items():  # fmt: skip
        for name in names:
            found.setdefault(name, functools.partial(_load_one, experiment, name, key))
    if not found:
        raise ConfigError("DATASETS.TRAIN, DATASETS.TEST and KD.UNLABELED.DATASETS are empty: there is no data set")
    return found


def _load_one(experiment: Experiment, name: str, key: str) -> DataSet:
    with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE):
        return experiment.load_one(name, key)


@contextlib.contextmanager
def dry_run(experiment: Experiment) -> Iterator[DryRun]:
    """Everything up to the first step, on the road of training. Raises like training would.

    Every loss counts fully from the first batch on, whatever its schedule: what is timed here is a distilled step. The
    batch is the first one of training that has an object.
    """
    if not active_losses(experiment.cfg.KD.LOSSES):
        raise ConfigError("KD.LOSSES has no loss with a weight or share other than 0: there is nothing to look at")
    with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE):
        prepared = prepare(experiment)
    distiller = prepared.distiller
    distiller.configs = {
        name: replace(config, schedule=Schedule(config.schedule.weight)) for name, config in distiller.configs.items()
    }
    device, arrivals = experiment.arrivals(prepared.train)
    distiller.to(device)
    arrive = first_with_objects(distiller, arrivals)
    best_of(experiment.cfg, None).check_names(experiment.try_out(prepared), complete=True)
    precision = functools.partial(forward_precision, experiment.cfg.SOLVER, device.type)
    yield DryRun(distiller.train(), arrive, prepared.facts, precision)


def prepare(experiment: Experiment, saved: str | None = None) -> Prepared:
    """Data, checks, models and losses; the student has ``MODEL.WEIGHTS``, then what it takes from its teacher.

    Args:
        saved: the checkpoint that follows, so the student keeps its drawn weights; its run is compared with this one.
    """
    cfg = experiment.cfg
    data = experiment.load_data("TRAIN")
    tests = experiment.load_data("TEST") if cfg.DATASETS.TEST else []
    if cfg.TEST.BEST and not tests:
        raise ConfigError(f"TEST.BEST is {cfg.TEST.BEST!r}, but DATASETS.TEST is empty: nothing is evaluated")
    experiment.check(data, tests)
    for line in without_effect(cfg):
        logger.warning(line)
    classes = experiment.class_names([*data, *tests])
    if saved:
        for line in check_resume(*saved_run(saved), cfg, classes):
            logger.warning("--resume: %s", line)
    distiller, facts = build_distiller(experiment, with_weights=saved is None)
    for line in start_up(distiller):
        logger.info(line)
    return Prepared(distiller.train(), data, tests, facts, classes)
