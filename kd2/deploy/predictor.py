"""What predicts: a student with everything around it, as a module or as an exported file.

Letters: N images, H x W pixels, M detections, K classes.
"""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from kd2.data.images import ImageSource, check_pixel_range, read_image
from kd2.distill import ConfigError

# Task -> what is found on one picture.
OUTPUTS = {
    "detection": ("boxes", "scores", "labels"),
    "instances": ("boxes", "scores", "labels", "masks"),
    "segmentation": ("scores",),
    "classification": ("scores",),
}
# Tasks whose networks take several pictures of one size at a time.
BATCHED = ("segmentation", "classification")
Found = dict[str, np.ndarray]
Picture = ImageSource | np.ndarray | Tensor


@dataclass(frozen=True)
class Facts:
    """What a file tells of itself beside its graph.

    Attributes:
        task: a key of ``OUTPUTS``.
        architecture: of the student, for people.
        classes: names in the order of the outputs; empty where the run did not know them.
        pixel_range: ``INPUT.PIXEL_RANGE`` of the run.
    """

    task: str
    architecture: str
    classes: list[str]
    pixel_range: list[float]

    def dump(self) -> str:
        """As a text that ``read`` takes."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str | None, path: str) -> "Facts":
        """The facts of an exported file; raises ConfigError naming ``path`` when it has none of kd2's."""
        try:
            facts = cls(**json.loads(text or ""))
            good = facts.task in OUTPUTS and isinstance(facts.classes, list) and len(facts.pixel_range) in (0, 2)
            good = good and all(isinstance(name, str) for name in [facts.architecture, *facts.classes])
            check_pixel_range([float(x) for x in facts.pixel_range])
        except (ValueError, TypeError, LookupError):
            good = False
        if not good:
            names = ", ".join(field.name for field in fields(cls))
            raise ConfigError(f"{path}: expected a file of kd2-export, which tells its {names}")
        return facts


class Predicts(ABC):
    """Finds on pictures what a student has learned to find.

    Attributes:
        facts: see ``Facts``.
    """

    facts: Facts

    @property
    def classes(self) -> list[str]:
        """Names of the classes in the order of the labels."""
        return self.facts.classes

    @abstractmethod
    def outputs(self, pixels: np.ndarray) -> Sequence[np.ndarray]:
        """The graph's outputs for uint8 RGB pixels (3, H, W), those of ``BATCHED`` with a first side of 1."""

    def predict(self, images: Picture | list[Picture] | tuple[Picture, ...]) -> list[Found]:
        """What is found on each picture, in pixels of the picture as it is given.

        Args:
            images: a list of pictures, or one: each a path, an open file, a Pillow image, an array (H, W, 3) or a
                tensor (3, H, W), both uint8 and RGB.

        Returns:
            One dict a picture. Detection: ``boxes`` (M, 4) x1, y1, x2, y2, ``scores`` (M,), ``labels`` (M,) from 0 and,
            of instances, ``masks`` (M, H, W) in [0, 1]. Segmentation: ``scores`` (K, H, W), probabilities of each
            pixel, and ``labels`` (H, W). Classification: ``scores`` (K,), and ``labels``, the best one, (1,).

        Raises:
            DataError: a picture that cannot be read. ConfigError: an array of another shape or type.
        """
        pictures = images if isinstance(images, (list, tuple)) else [images]
        return [self._found(pixels_of(picture, self.facts.pixel_range)) for picture in pictures]

    def _found(self, pixels: np.ndarray) -> Found:
        task = self.facts.task
        outputs = self.outputs(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        found = dict(zip(OUTPUTS[task], outputs, strict=True))
        if task in BATCHED:
            found["scores"] = found["scores"][0]
            best = found["scores"].argmax(0)
            found["labels"] = best if task == "segmentation" else best.reshape(1)
        return found


class Predictor(nn.Module, Predicts):
    """A student with its pre- and post-processing inside; its ``forward`` is the graph that is exported.

    Args:
        student: the framework's plain module; it is frozen.
        facts: see ``Facts``.
        reversed_colors: whether the student sees BGR.

    Attributes:
        any_batch: whether the graph takes any number of pictures of one size at a time.
    """

    any_batch = False

    def __init__(self, student: nn.Module, facts: Facts, reversed_colors: bool):
        super().__init__()
        self.student, self.facts, self.reversed_colors = student.requires_grad_(False), facts, reversed_colors
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """What ``OUTPUTS`` names for uint8 RGB images: (3, H, W), or (N, 3, H, W) where the task is in ``BATCHED``."""
        return self.found(images.flip(-3) if self.reversed_colors else images)

    @abstractmethod
    def found(self, images: Tensor) -> tuple[Tensor, ...]:
        """``forward`` of images in the student's own color order."""

    def traceable(self, image: Tensor) -> nn.Module:
        """What tracing records for an example of the input."""
        return self

    def example(self, pixels: np.ndarray) -> Tensor:
        """Pixels (3, H, W) as ``forward`` takes them, on the student's device."""
        images = torch.from_numpy(pixels).to(next(self.parameters()).device)
        return images[None] if self.facts.task in BATCHED else images

    @torch.no_grad()
    def outputs(self, pixels: np.ndarray) -> Sequence[np.ndarray]:
        """See ``Predicts``."""
        return [x.cpu().numpy() for x in self(self.example(pixels))]


def pixels_of(image: Picture, pixel_range: Sequence[float] = ()) -> np.ndarray:
    """A picture as uint8 RGB (H, W, 3); see ``Predicts.predict``."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy().transpose(1, 2, 0) if image.dim() == 3 else image.numpy()
    if not isinstance(image, np.ndarray):
        if not (isinstance(image, (str, os.PathLike, Image)) or hasattr(image, "read")):
            raise ConfigError(f"an image is {image!r:.50}, expected a path, file, Pillow image, array or tensor")
        return read_image(image, pixel_range)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ConfigError(f"an image is {image.dtype} of shape {image.shape}, expected uint8 (H, W, 3) in RGB")
    return image


def facts_of(cfg: Any, task: str, architecture: str, classes: Sequence[str]) -> Facts:
    """The facts of a run's student."""
    return Facts(task, architecture, list(classes), list(cfg.INPUT.PIXEL_RANGE))
