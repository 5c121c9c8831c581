"""A segmentation loss for batches in which no pixel has a class."""

from typing import Any

from torch import Tensor, nn

# What the losses of Detectron2's segmentation heads, and of ours, are called.
_NAMES = "loss_sem_seg"


def losses_of(model: nn.Module, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The losses of a Detectron2 model in training; those of the pixels are an exact 0 when all pixels are ignored.

    Detectron2's heads average over the pixels that have a class, and give NaN when there is none. One pixel then gets
    class 0, and what follows from it counts 0 times. Looks at the labels on the host, where the loader put them.
    """
    if not _all_ignored(model, batch):
        return model(batch)
    first, *rest = batch
    labels = first["sem_seg"].clone()
    labels[0, 0] = 0
    losses = model([{**first, "sem_seg": labels}, *rest])
    return {name: loss * 0.0 if name.startswith(_NAMES) else loss for name, loss in losses.items()}


def _all_ignored(model: nn.Module, batch: list[dict[str, Any]]) -> bool:
    if "sem_seg" not in batch[0] or not hasattr(model, "sem_seg_head"):
        return False
    ignored = model.sem_seg_head.ignore_value
    return all(bool((sample["sem_seg"] == ignored).all()) for sample in batch)
