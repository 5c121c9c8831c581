"""A record to the image and labels that a segmentation network sees."""

import torch
from fvcore.common.config import CfgNode
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from kd2.data.segmentation.semantic import SemanticRecords
from kd2.engine.lightning.images import flips, record_image, resizing

Sample = tuple[Tensor, Tensor, dict]


class SemanticMapper:
    """A record to (image uint8 (3, h, w), labels uint8 (h, w), record).

    Training resizes, crops and flips both. Otherwise the image is resized and the labels are left as they are.

    Args:
        data: the data sets that records come from; they know how their labels are read.
    """

    def __init__(self, cfg: CfgNode, data: list[SemanticRecords], training: bool):
        self.bgr, self.training = cfg.INPUT.FORMAT == "BGR", training
        self.pixel_range = cfg.INPUT.PIXEL_RANGE
        self.labels = {d.name: d.labels for d in data}
        self.augment = v2.Compose([resizing(cfg), *_crop(cfg), *flips(cfg)]) if training else v2.Identity()
        self.test_size = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST

    def __call__(self, record: dict) -> Sample:
        image = record_image(record, self.pixel_range)
        labels = tv_tensors.Mask(torch.from_numpy(self.labels[record["dataset"]].of(record)))
        if self.training:
            image, labels = self.augment(image, labels)
        else:
            image = _resized(image, *self.test_size)
        pixels = image.as_subclass(Tensor)
        return pixels.flip(0) if self.bgr else pixels, labels.as_subclass(Tensor), record


class Crop(v2.Transform):
    """A random piece of at most ``size``; smaller images stay whole, the batch is padded."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list) -> dict[str, int]:
        whole = flat_inputs[0].shape[-2:]
        height, width = (min(sides) for sides in zip(self.size, whole))
        top, left = (int(torch.randint(0, side - piece + 1, ())) for side, piece in zip(whole, (height, width)))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: Tensor, params: dict[str, int]) -> Tensor:
        return v2.functional.crop(inpt, **params)


def _crop(cfg: CfgNode) -> list[v2.Transform]:
    return [Crop(tuple(cfg.INPUT.CROP.SIZE))] if cfg.INPUT.CROP.ENABLED else []


def _resized(image: Tensor, shortest: int, longest: int) -> Tensor:
    """The shorter side ``shortest``, the other at most ``longest``; unchanged when ``shortest`` is 0."""
    if not shortest:
        return image
    size = image.shape[-2:]
    factor = min(shortest / min(size), longest / max(size))
    return v2.functional.resize(image, [round(side * factor) for side in size], antialias=True)
