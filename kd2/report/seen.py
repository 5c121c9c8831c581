"""Batches and outputs of every road in one form, for drawing.

Letters: M objects, H x W pixels of the resized image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Found:
    """What is on an image, annotated or found by a model.

    Attributes:
        boxes: (M, 4) x1, y1, x2, y2 in pixels.
        labels: (M,) classes from 0.
        scores: (M,) in [0, 1]; 1 for what is annotated.
        masks: (M, H, W) booleans, or None.
        pixels: (H, W) classes, 255 where there is none; None of a detector.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: np.ndarray | None = None
    pixels: np.ndarray | None = None

    def of(self, chosen: np.ndarray) -> "Found":
        """Those objects alone, by their places or by a mask."""
        masks = None if self.masks is None else self.masks[chosen]
        return replace(
            self, boxes=self.boxes[chosen], labels=self.labels[chosen], scores=self.scores[chosen], masks=masks
        )


def nothing(pixels: np.ndarray | None = None) -> Found:
    """No object, perhaps classes of pixels."""
    return Found(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), pixels=pixels)


def picture(batch: Any, color_order: str) -> np.ndarray:
    """The image of a batch of one, uint8 (H, W, 3), RGB."""
    image = batch[0]["image"] if isinstance(batch, list) else batch.images[0]
    pixels = image.cpu().permute(1, 2, 0).numpy()
    return np.ascontiguousarray(pixels[:, :, ::-1] if color_order == "BGR" else pixels).astype(np.uint8)


def reversed_colors(batch: Any) -> Any:
    """The batch of one with its channels in the other order, for a teacher that reads them so."""
    if isinstance(batch, list):
        return [{**sample, "image": sample["image"].flip(0)} for sample in batch]
    return replace(batch, images=[image.flip(0) for image in batch.images])


def moved(batch: Any, device: torch.device) -> Any:
    """The batch on a device; Detectron2's models bring it there themselves."""
    return batch if isinstance(batch, list) else batch.to(device)


def in_own_size(batch: Any) -> Any:
    """A batch of Detectron2 whose outputs are asked for in pixels of the resized image; others are so."""
    if not isinstance(batch, list):
        return batch
    return [{**s, "height": s["image"].shape[1], "width": s["image"].shape[2]} for s in batch]


def truth(batch: Any) -> Found:
    """What is annotated on the image of a batch of one."""
    if isinstance(batch, list):
        return _detectron2_truth(batch[0])
    if hasattr(batch, "labels"):
        return nothing(_array(batch.labels[0]))
    target = batch.targets[0]
    masks = _array(target["masks"]).astype(bool) if "masks" in target else None
    return _objects(target["boxes"], target["labels"], None, masks)


def output(found: Any) -> Found:
    """What a model gave for a batch of one, see ``Experiment.predict``."""
    if isinstance(found, Tensor):
        return nothing(_array(found[0]))
    first = found[0]
    if "boxes" in first:
        masks = (_array(first["masks"])[:, 0] > 0.5) if "masks" in first else None
        return _objects(first["boxes"], first["labels"], first["scores"], masks)
    pixels = _array(first["sem_seg"].argmax(0)) if "sem_seg" in first else None
    if "instances" not in first:
        return nothing(pixels)
    instances = first["instances"]
    masks = _array(instances.pred_masks).astype(bool) if instances.has("pred_masks") else None
    objects = _objects(instances.pred_boxes.tensor, instances.pred_classes, instances.scores, masks)
    return replace(objects, pixels=pixels)


def _detectron2_truth(sample: dict[str, Any]) -> Found:
    pixels = _array(sample["sem_seg"]) if "sem_seg" in sample else None
    if "instances" not in sample:
        return nothing(pixels)
    instances = sample["instances"]
    objects = _objects(instances.gt_boxes.tensor, instances.gt_classes, None, _masks(instances))
    return replace(objects, pixels=pixels)


def _masks(instances: Any) -> np.ndarray | None:
    """Masks of Detectron2's annotations, bitmaps or polygons."""
    if not instances.has("gt_masks") or not len(instances):
        return None
    masks = instances.gt_masks
    if hasattr(masks, "tensor"):
        return _array(masks.tensor).astype(bool)
    from detectron2.structures import BitMasks  # polygons are Detectron2's too

    return _array(BitMasks.from_polygon_masks(masks, *instances.image_size).tensor).astype(bool)


def _objects(boxes: Tensor, labels: Tensor, scores: Tensor | None, masks: np.ndarray | None) -> Found:
    certain = np.ones(len(labels)) if scores is None else _array(scores)
    return Found(_array(boxes).reshape(-1, 4), _array(labels).astype(int), certain, masks)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().float().numpy() if x.is_floating_point() else x.detach().cpu().numpy()


def shown_names(names: Sequence[str], label: int) -> str:
    """The name of a class, or its number where names are missing."""
    return names[label] if label < len(names) else str(label)
