"""The teacher's outputs from a file, for views that never change."""

import logging
import os
from collections.abc import Iterator, Sequence

import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from kd2.data.classification.batches import TeacherViews
from kd2.data.classification.cache import (
    Fingerprint,
    TeacherCache,
    digest,
    mean_prediction,
    weights_digest,
    write_cache,
)
from kd2.data.classification.image_dataset import ImageDataset
from kd2.data.classification.mixup import unit_pixels
from kd2.data.classification.views import Views
from kd2.distill import ConfigError
from kd2.engine.lightning.classification.teacher import TeacherNetwork, build_teacher
from kd2.engine.lightning.teacher import TeacherSource
from kd2.engine.lightning.trainer import uses_gpu

logger = logging.getLogger(__name__)

# Images whose pixels enter the fingerprint of a data set, evenly spread, beside the names and labels of all.
_LOOKED_AT = 32


class CachedTeacher(nn.Module):
    """A teacher whose logits for training images come from a file: logits (N, K) pass through, images do not."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 2 else self.model(x)


class ComputedOutputs:
    """What a cache would hold, computed for the images that are asked for; nothing is kept."""

    def __init__(self, cfg: CfgNode, data: ImageDataset, views: Views, teacher: TeacherNetwork):
        self.cfg, self.views, self.teacher = cfg, views, teacher
        self.seen = TeacherViews(data, views, cfg.KD.VIEWS.ENSEMBLE)

    def __getitem__(self, indices: Sequence[int]) -> Tensor:
        """Logits (n, K) of n images, float32 on the host."""
        found = _outputs(self.cfg, Subset(self.seen, indices), self.views, self.teacher)
        return torch.cat([logits.cpu() for _, logits in found])


def cached_outputs(
    cfg: CfgNode, teachers: list[TeacherSource], data: ImageDataset, views: Views, ranks: int, make: bool = True
) -> TeacherCache | ComputedOutputs | None:
    """The cache ``KD.VIEWS.CACHE`` of the training images; None when none is named.

    Args:
        make: make it when it is not there; otherwise outputs are computed as they are needed.

    Raises:
        ConfigError: a mode without a cacheable target, or one that needs a cache; a cache of something else; several
            processes and no cache yet.
    """
    folder = cfg.KD.VIEWS.CACHE
    if not folder:
        if views.mode.ensemble:
            raise ConfigError(f"KD.VIEWS.CACHE is empty, but KD.VIEWS.MODE {views.name} needs the teacher's outputs")
        return None
    with torch.random.fork_rng(devices=[]):
        teacher = build_teacher(teachers, cfg.MODEL.CLASSES, cfg.KD.TEACHER.ALLOW_PARTIAL)
    teacher.module.eval().requires_grad_(False)
    fingerprint = Fingerprint.of(
        views,
        teacher=digest([weights_digest(teacher.module.state_dict()), teacher.about]),
        data=_data_digest(data),
        count=cfg.KD.VIEWS.ENSEMBLE,
        images=len(data),
        classes=cfg.MODEL.NUM_CLASSES,
    )
    if not os.path.exists(folder):
        if not make:
            return ComputedOutputs(cfg, data, views, teacher)
        if ranks > 1:
            raise ConfigError(f"KD.VIEWS.CACHE: {folder} does not exist; make it first, with one process")
        logger.info("KD.VIEWS.CACHE: computing the teacher's outputs of %d images into %s", len(data), folder)
        seen = TeacherViews(data, views, cfg.KD.VIEWS.ENSEMBLE)
        write_cache(folder, fingerprint, _outputs(cfg, seen, views, teacher))
    return TeacherCache(folder, fingerprint)


def _data_digest(data: ImageDataset) -> str:
    looked_at = range(0, len(data), max(len(data) // _LOOKED_AT, 1))
    return digest([*data.names, data.labels.tobytes(), *(data.pixels(i).numpy().tobytes() for i in looked_at)])


def _outputs(cfg: CfgNode, seen: Dataset, views: Views, teacher: TeacherNetwork) -> Iterator[tuple[list[int], Tensor]]:
    """Numbers of images and their logits in the order of ``seen``, which is all or some of ``TeacherViews``."""
    device = torch.device("cuda" if uses_gpu(cfg) else "cpu")
    model, count, most = teacher.module.to(device), cfg.KD.VIEWS.ENSEMBLE, cfg.TEST.IMS_PER_BATCH
    size = max(most // count, 1) if views.mode.ensemble else most
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(seen, size, num_workers=cfg.DATALOADER.NUM_WORKERS, generator=generator)
    for indices, pixels in loader:
        with torch.no_grad():
            parts = pixels.flatten(0, 1).split(most)
            logits = torch.cat([model(teacher.normalize(unit_pixels(part.to(device)))).float() for part in parts])
        logits = logits.view(*pixels.shape[:2], -1).transpose(0, 1)
        yield indices.tolist(), mean_prediction(logits) if views.mode.ensemble else logits[0]
