"""Records to batches for torchvision's detectors."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from fvcore.common.config import CfgNode
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from kd2.data.detection import records
from kd2.data.records import without_labels
from kd2.data.segmentation.semantic import load_semantic
from kd2.data.stream import Batches, Joined, Keyed, aspect, shuffled, train_loader, unlabeled_share
from kd2.distill import DataError
from kd2.engine.lightning.batches import images_a_rank, test_loader
from kd2.engine.lightning.images import augmentation, check_resized, named, record_image

UNLABELED = "KD.UNLABELED.DATASETS"
Sample = tuple[Tensor, dict[str, Tensor] | None, dict]  # image, target, record


@dataclass(frozen=True)
class Batch:
    """Images and targets on the device, and what losses want on the host.

    Attributes:
        images: N uint8 tensors (3, H, W) in the student's color order.
        targets: per labeled image ``boxes`` (M, 4) x1 y1 x2 y2 in pixels, ``labels`` (M,) from 0, for masks ``masks``
            (M, H, W). Images without labels follow the others and have none.
        boxes: the boxes once more, of every image; they stay on the host. Images without labels have none until the
            teacher finds some.
        records: the records the images came from.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    boxes: list[Tensor]
    records: list[dict]

    @functools.cached_property
    def unit_images(self) -> list[Tensor]:
        """The images as float32 in [0, 1], made once for both networks."""
        return [x.float() / 255 for x in self.images]

    def to(self, device: torch.device) -> "Batch":
        """A copy with images and targets on ``device``."""
        move = functools.partial(_moved, function=lambda x: x.to(device, non_blocking=True))
        return replace(self, images=move(self.images), targets=move(self.targets))

    def pin_memory(self) -> "Batch":
        """A copy in page-locked memory (the data loader asks for it when there is a GPU)."""
        move = functools.partial(_moved, function=Tensor.pin_memory)
        return replace(self, images=move(self.images), targets=move(self.targets))


def _moved(x, function: Callable[[Tensor], Tensor]):
    if isinstance(x, Tensor):
        return function(x)
    return [_moved(y, function) for y in x] if isinstance(x, list) else {k: _moved(y, function) for k, y in x.items()}


def collate(samples: list[Sample]) -> Batch:
    """Samples of ``DetectionMapper`` to a batch."""
    images, targets, sources = zip(*samples)
    boxes = [torch.zeros(0, 4) if target is None else target["boxes"] for target in targets]
    return Batch(list(images), [target for target in targets if target is not None], boxes, list(sources))


class DetectionMapper:
    """A record to (image uint8 (3, H, W), target, record), augmented in training.

    A record without ``annotations`` has no labels: its target is None.
    """

    def __init__(self, cfg: CfgNode, training: bool, masks: bool):
        self.bgr, self.masks = cfg.INPUT.FORMAT == "BGR", masks
        self.pixel_range = cfg.INPUT.PIXEL_RANGE
        self.augment = augmentation(cfg) if training else v2.Identity()
        self.cropped = training and cfg.INPUT.SCALE_JITTER.ENABLED
        self.test_size = None if training else (cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)

    def __call__(self, record: dict) -> Sample:
        image, target = record_image(record, self.pixel_range), {}
        if self.test_size:
            _check_size(image.shape[-2:], *self.test_size)
        if "annotations" in record:
            target = self._target(record["annotations"], (image.shape[1], image.shape[2]))
        image, target = self.augment(image, target)
        pixels = image.as_subclass(Tensor)
        pixels = pixels.flip(0) if self.bgr else pixels
        if not target:
            return pixels, None, record
        plain = {k: v.as_subclass(Tensor) for k, v in target.items()}
        if self.masks:  # a crop, or making an image smaller, may have left nothing of one
            plain = {k: v[plain["masks"].bool().flatten(1).any(1)] for k, v in plain.items()}
            if self.cropped:
                plain["boxes"] = _tight_boxes(plain["masks"])
        solid = (plain["boxes"][:, 2:] > plain["boxes"][:, :2]).all(1)  # a sliver may have no width left in float32
        return pixels, {k: v[solid] for k, v in plain.items()}, record

    def _target(self, annotations: list[dict], size: tuple[int, int]) -> dict[str, Tensor]:
        """The objects of an image of ``size`` (H, W) that are no crowd."""
        instances = [a for a in annotations if not a["iscrowd"] and (not self.masks or "segmentation" in a)]
        boxes = torch.tensor([a["bbox"] for a in instances], dtype=torch.float32).reshape(-1, 4)
        target = {
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYWH", canvas_size=size),
            "labels": torch.tensor([a["category_id"] for a in instances], dtype=torch.int64),
        }
        if self.masks:
            target["masks"] = tv_tensors.Mask(_masks(instances, size))
        target["boxes"] = v2.functional.convert_bounding_box_format(target["boxes"], new_format="XYXY")
        return target


def _check_size(size: Sequence[int], shortest: int, longest: int) -> None:
    """Refuse an image of ``size`` (H, W) of which the model itself, which resizes in evaluation, leaves nothing."""
    factor = min(shortest / min(size), longest / max(size))
    check_resized(size, [int(side * factor) for side in size])


def _tight_boxes(masks: Tensor) -> Tensor:
    """The boxes (M, 4) of what a crop left of masks (M, H, W)."""
    return masks_to_boxes(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # of first and last pixels


def _masks(instances: list[dict], size: tuple[int, int]) -> Tensor:
    """Binary masks (M, H, W) of checked polygons or run-length codes."""
    masks = torch.zeros(len(instances), *size, dtype=torch.uint8)
    for mask, instance in zip(masks, instances):
        code = instance["segmentation"]
        if isinstance(code, list):
            code = coco_mask.merge(coco_mask.frPyObjects(code, *size))
        mask.copy_(torch.from_numpy(coco_mask.decode(code)))
    return masks


def load_all(cfg: CfgNode, split: str, classes: Sequence[str] = ()) -> list[records.Records]:
    """The data sets of ``DATASETS.TRAIN`` or ``DATASETS.TEST`` with one list of classes; in training those of
    ``KD.UNLABELED`` follow, without classes and labels. Tells what was found in them.

    Args:
        classes: those of the run, as far as they are known.

    Raises:
        ConfigError: no data set is named.
        DataError: a file cannot be used, see ``kd2.data.detection.records``; classes that the run does not have.
    """
    names, key = named(cfg, split, records.BUILTIN), f"DATASETS.{split}"
    data = records.of_one_run([load_one(cfg, name, key) for name in names], classes)
    for d in data:
        if finds_masks(cfg):
            records.tell_without_masks(d)
        d.findings.tell()
    return data + (_unlabeled(cfg) if split == "TRAIN" else [])


def load_one(cfg: CfgNode, name: str, key: str) -> records.Records:
    """The data set ``name``; ``key`` names it in errors. That of ``KD.UNLABELED`` may be a folder of images."""
    custom, pixel_range = cfg.DATASETS.CUSTOM, cfg.INPUT.PIXEL_RANGE
    if key != UNLABELED or set(custom.get(name, ())) != {"UNLABELED"}:
        return records.load(name, custom, key, pixel_range)
    images = load_semantic(name, custom, key, pixel_range)
    return records.Records(name, (), images.records, images.source, images.findings, {}, pixel_range)


def _unlabeled(cfg: CfgNode) -> list[records.Records]:
    unlabeled_share(cfg.KD.UNLABELED.DATASETS, cfg.KD.UNLABELED.IMS_PER_BATCH, 1)
    data = [load_one(cfg, name, UNLABELED) for name in cfg.KD.UNLABELED.DATASETS]
    for d in data:
        d.findings.tell()
    return [replace(d, classes=(), records=without_labels(d.records), category_ids={}) for d in data]


def finds_masks(cfg: CfgNode) -> bool:
    """Whether the model learns masks."""
    return cfg.MODEL.META_ARCHITECTURE == "MaskRCNN"


def training_batches(cfg: CfgNode, data: list[records.Records], start: int, rank: int, ranks: int) -> DataLoader:
    """An endless loader of this rank's batches, from iteration ``start`` on; unlabeled images come last in each."""
    keep = [
        r
        for d in data
        for r in d.records
        if "annotations" in r
        and (not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS or any(not a["iscrowd"] for a in r["annotations"]))
    ]
    if not keep:
        raise DataError(f"{data[0].source}: no image has an annotation that is not crowd")
    extra = [r for d in data for r in d.records if "annotations" not in r]
    every = keep + extra
    batches: Batches | Joined = Batches(
        functools.partial(shuffled, len(keep), cfg.SEED),
        images_a_rank(cfg.SOLVER.IMS_PER_BATCH, ranks),
        start,
        group_of=(lambda index: aspect(every[index])) if cfg.DATALOADER.ASPECT_RATIO_GROUPING else None,
        rank=rank,
        ranks=ranks,
    )
    more = unlabeled_share(cfg.KD.UNLABELED.DATASETS, cfg.KD.UNLABELED.IMS_PER_BATCH, ranks)
    if more:
        batches = Joined(batches, len(keep), len(extra), more, cfg.SEED)
    dataset = Keyed(every, DetectionMapper(cfg, training=True, masks=finds_masks(cfg)), cfg.SEED)
    return train_loader(dataset, batches, cfg.DATALOADER.NUM_WORKERS, collate)


def test_batches(cfg: CfgNode, data: records.Records, rank: int, ranks: int) -> DataLoader:
    """A loader of this rank's share of a test set, one image a batch in its original size."""
    return test_loader(data.records[rank::ranks], DetectionMapper(cfg, training=False, masks=False), cfg, collate)
