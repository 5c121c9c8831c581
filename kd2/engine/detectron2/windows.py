"""Evaluation of big images window by window: ``TEST.WINDOW``."""

from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import sem_seg_postprocess
from torch import Tensor, nn

from kd2.distill import ConfigError
from kd2.networks.window import check_window, predict

Size = tuple[int, int]


class Windowed(nn.Module):
    """A segmentation model that sees windows of the resized image; scores are averaged where windows overlap.

    Args:
        model: in eval mode gives ``sem_seg`` scores for Detectron2's batches.
        size, stride: (height, width) of a window and (y, x) from one to the next, in pixels of the resized image.
    """

    def __init__(self, model: nn.Module, size: Size, stride: Size):
        super().__init__()
        self.model, self.size, self.stride = model, size, stride

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Per image ``sem_seg``: scores (K, H, W) of the size that the sample asks for."""
        return [{"sem_seg": self._scores(sample)} for sample in batch]

    def _scores(self, sample: dict[str, Any]) -> Tensor:
        image = sample["image"].to(next(self.model.parameters()).device)
        height, width = image.shape[1:]
        scores = predict(self._piece, image[None], self.size, self.stride)[0]
        return sem_seg_postprocess(scores, (height, width), sample.get("height", height), sample.get("width", width))

    def _piece(self, pixels: Tensor) -> Tensor:
        (image,) = pixels
        return self.model([{"image": image, "height": image.shape[1], "width": image.shape[2]}])[0]["sem_seg"][None]


def windowed(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """``model``, or with a ``TEST.WINDOW.SIZE`` its ``Windowed`` form."""
    window = cfg.TEST.WINDOW
    return Windowed(model, tuple(window.SIZE), tuple(window.STRIDE)) if window.SIZE else model


def check_windows(cfg: CfgNode, student: nn.Module) -> None:
    """Raises ConfigError for ``TEST.WINDOW`` with a model that finds objects, or without two sides or steps."""
    size, stride = list(cfg.TEST.WINDOW.SIZE), list(cfg.TEST.WINDOW.STRIDE)
    if not size and not stride:
        return
    if hasattr(student, "roi_heads") or not hasattr(student, "sem_seg_head"):
        kind = type(student).__name__
        raise ConfigError(f"TEST.WINDOW.SIZE is {size}, {kind} finds objects: it needs the whole image")
    check_window(size, stride)
