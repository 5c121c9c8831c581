"""torchvision's detectors with the conventions of Detectron2, so that files trained there give the same detections.

Letters: N objects, P proposals, C channels, M x M cells of a mask.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes
from torchvision.ops import MultiScaleRoIAlign, batched_nms, clip_boxes_to_image, roi_align
from torchvision.ops.poolers import LevelMapper

from kd2.distill import ConfigError
from kd2.engine.lightning.detection.anchors import Detectron2Anchors
from kd2.zoo.detector_names import detector_state, is_detectron2

# Of P2, the first level of an R-CNN.
_FIRST_STRIDE = 4
Detections = dict[str, Tensor]


class AlignedRoIAlign(MultiScaleRoIAlign):
    """RoIAlign on P2 to P5 with half a pixel taken off (``aligned``) and as many samples as a cell has pixels."""

    def __init__(self, output_size: int):
        super().__init__(["0", "1", "2", "3"], output_size, sampling_ratio=0)
        self.level_of = LevelMapper(2, 5)

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Maps by name and boxes an image (P, 4) in pixels to (sum of P, C, *output_size)."""
        maps = [x[name] for name in self.featmap_names]
        levels = self.level_of(boxes)
        regions = torch.cat([F.pad(b, (1, 0), value=image) for image, b in enumerate(boxes)])
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], *self.output_size)
        for level, level_map in enumerate(maps):
            chosen = torch.where(levels == level)[0]
            scale = 1 / (_FIRST_STRIDE * 2**level)
            found = roi_align(level_map, regions[chosen], self.output_size, scale, self.sampling_ratio, aligned=True)
            pooled[chosen] = found.to(pooled.dtype)
        return pooled


class UnclippedRetinaNet(RetinaNet):
    """RetinaNet that suppresses boxes as they are and clips those that stay; empty ones are left out then."""

    def postprocess_detections(
        self,
        head_outputs: dict[str, list[Tensor]],
        anchors: list[list[Tensor]],
        image_shapes: list[tuple[int, int]],
    ) -> list[Detections]:
        """Boxes, scores and labels an image from outputs and anchors a level."""
        logits, deltas = head_outputs["cls_logits"], head_outputs["bbox_regression"]
        return [
            self._of_image([x[i] for x in logits], [x[i] for x in deltas], anchors[i], size)
            for i, size in enumerate(image_shapes)
        ]

    def _of_image(
        self, logits: list[Tensor], deltas: list[Tensor], anchors: list[Tensor], size: tuple[int, int]
    ) -> Detections:
        levels = [self._of_level(*level) for level in zip(logits, deltas, anchors, strict=True)]
        boxes, scores, labels = (torch.cat(parts) for parts in zip(*levels, strict=True))
        keep = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
        boxes, scores, labels = clip_boxes_to_image(boxes[keep], size), scores[keep], labels[keep]
        solid = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return {"boxes": boxes[solid], "scores": scores[solid], "labels": labels[solid]}

    def _of_level(self, logits: Tensor, deltas: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates of one level: boxes, scores, labels."""
        scores = logits.sigmoid().flatten()
        candidates = torch.where(scores > self.score_thresh)[0]
        scores, best = scores[candidates].topk(min(self.topk_candidates, len(candidates)))
        cells = candidates[best].div(logits.shape[-1], rounding_mode="floor")
        return self.box_coder.decode_single(deltas[cells], anchors[cells]), scores, candidates[best] % logits.shape[-1]


class SamplingTransform(GeneralizedRCNNTransform):
    """A transform that pastes masks by sampling them at the centers of the image's pixels.

    Args:
        other: gives sizes, mean and deviation; images are resized in evaluation alone.
    """

    def __init__(self, other: GeneralizedRCNNTransform):
        super().__init__(
            other.min_size, other.max_size, other.image_mean, other.image_std, other.size_divisible, _skip_resize=True
        )

    def postprocess(
        self,
        result: list[Detections],
        image_shapes: list[tuple[int, int]],
        original_image_sizes: list[tuple[int, int]],
    ) -> list[Detections]:
        """Boxes in pixels of the original images, masks (N, 1, H, W) of scores there."""
        if not self.training:
            for found, size, original in zip(result, image_shapes, original_image_sizes, strict=True):
                found["boxes"] = resize_boxes(found["boxes"], size, original)
                if "masks" in found:
                    found["masks"] = paste_masks(found["masks"], found["boxes"], original)
        return result


def paste_masks(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (N, 1, M, M) of boxes (N, 4) in an image of ``size`` (H, W), 0 outside: (N, 1, H, W)."""
    ys, xs = (torch.arange(side, device=boxes.device) + 0.5 for side in size)
    pasted = masks.new_zeros(len(masks), 1, *size)
    for place, mask, (x0, y0, x1, y1) in zip(pasted, masks, boxes):
        x, y = 2 * (xs - x0) / (x1 - x0) - 1, 2 * (ys - y0) / (y1 - y0) - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        place.copy_(F.grid_sample(mask[None], grid[None], align_corners=False)[0])
    return pasted


def in_model_names(
    state: dict[str, Tensor], generator: torch.nn.Module | None, where: str
) -> tuple[dict[str, Tensor], list[str]]:
    """A detector's weights under torchvision's names, and the names that were left out.

    Args:
        generator: of the model's anchors.
        where: config key and file, which begin the error.

    Raises:
        ConfigError: Detectron2's names for a model without its conventions.
    """
    if not is_detectron2(state):
        return state, []
    if not isinstance(generator, Detectron2Anchors):
        raise ConfigError(
            f"{where} is a detector of Detectron2, expected torchvision's names; with MODEL.CONVENTIONS detectron2 a "
            "RetinaNet, FasterRCNN or MaskRCNN reads it"
        )
    try:
        return detector_state(state, len(generator.sizes[0]), len(generator.aspect_ratios[0]))
    except RuntimeError:
        raise ConfigError(
            f"{where} has another number of anchors at a cell than MODEL.ANCHOR_GENERATOR, "
            f"{generator.num_anchors_per_location()[0]}"
        ) from None
