"""Detectron2's own names of data sets, read below a folder of a test, and what a perfect model finds there."""

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import builtin
from detectron2.structures import Boxes, Instances

from kd2.engine.detectron2.evaluators import build_evaluator

from .d2_tiny import load_config

REGISTER: tuple[Callable[[str], None], ...] = (
    builtin.register_all_coco,
    builtin.register_all_lvis,
    builtin.register_all_cityscapes,
    builtin.register_all_cityscapes_panoptic,
    builtin.register_all_pascal_voc,
    builtin.register_all_ade20k,
)


@contextlib.contextmanager
def built_in(root: Path) -> Iterator[None]:
    """The built-in names as a process with $DETECTRON2_DATASETS ``root`` has them."""
    catalogs = DatasetCatalog, MetadataCatalog
    before = [catalog.data for catalog in catalogs]
    for catalog in catalogs:
        catalog.data = {}
    try:
        for register in REGISTER:
            register(str(root))
        yield
    finally:
        for catalog, data in zip(catalogs, before):
            catalog.data = data


def found(
    size: tuple[int, int],
    classes: Iterable[int],
    boxes: Iterable[Iterable[float]],
    masks: np.ndarray | None = None,
    keypoints: np.ndarray | None = None,
) -> Instances:
    """What a detector returns of an image of ``size`` (H, W): ``boxes`` x1 y1 x2 y2, one more confident than the
    next; ``masks`` (N, H, W), ``keypoints`` (N, K, 3)."""
    classes = torch.tensor(list(classes), dtype=torch.int64)
    instances = Instances(size, pred_classes=classes, scores=torch.linspace(0.9, 0.5, len(classes)))
    instances.pred_boxes = Boxes(torch.tensor(list(boxes), dtype=torch.float32).reshape(-1, 4))
    if masks is not None:
        instances.pred_masks = torch.from_numpy(masks.astype(bool))
    if keypoints is not None:
        instances.pred_keypoints = torch.from_numpy(keypoints.astype(np.float32))
    return instances


def scores(config: str, name: str, pairs: Iterable[tuple[dict, dict]], *options: str) -> dict[str, dict[str, float]]:
    """Nested scores of (input, output of a model) by the evaluator that training takes for data set ``name``."""
    evaluator = build_evaluator(load_config(config, options), name)
    evaluator.reset()
    for given, output in pairs:
        evaluator.process([given], [output])
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluator.evaluate()
