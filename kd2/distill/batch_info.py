"""Batch info: what a loss may know of a batch besides the maps. Tensors and numbers only.

Frames: boxes and anchors are x1, y1, x2, y2 in pixels of the resized image, origin at its top left corner. Padding is
added on the right and at the bottom, so the same numbers hold in the padded batch.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from kd2.distill.errors import ConfigError

Size = tuple[int, int]

# What labels hold where a pixel or an image has no class: no loss and no metric counts it.
IGNORE_LABEL = 255
# More streams of random numbers than a loss draws from for one batch.
_STREAMS = 1 << 20


@dataclass(frozen=True)
class AnchorGrid:
    """The anchors of one level: K base boxes repeated at every cell.

    Attributes:
        base: (K, 4) the anchors of cell (0, 0).
        stride: (y, x) pixels from cell to cell.
        size: (H, W) cells. The anchor of cell (i, j) is ``base + (j * sx, i * sy, j * sx, i * sy)``.
    """

    base: Tensor
    stride: tuple[float, float]
    size: Size

    def on(self, device: torch.device) -> "AnchorGrid":
        """The same on a device."""
        return replace(self, base=self.base.to(device, non_blocking=True))

    def dense(self) -> Tensor:
        """All anchors, (H, W, K, 4)."""
        rows, columns = (torch.arange(n, dtype=self.base.dtype, device=self.base.device) for n in self.size)
        y, x = rows * self.stride[0], columns * self.stride[1]
        shift = torch.stack(torch.broadcast_tensors(x[None, :], y[:, None], x[None, :], y[:, None]), -1)
        return shift[:, :, None] + self.base


@dataclass(frozen=True)
class BoxCoder:
    """What the four numbers of a head say of a box, relative to an anchor or a proposal.

    Attributes:
        kind: ``deltas``: dx, dy over its width and height and dw, dh, logarithms, each times a weight; ``distances``:
            to the left, top, right and bottom from its center, over its width and height, behind a ReLU.
        weights: of the deltas.
    """

    kind: Literal["deltas", "distances"] = "deltas"
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True)
class BoxCoding:
    """How the dense heads of student and teacher say where boxes are.

    Attributes:
        grids: given the (H, W) of a tap's maps, what the boxes are relative to: the anchors of both sides, or for
            points squares around them, one a cell, whose side is the stride.
        student, teacher: the meaning of their numbers.
        classes: how many scores an anchor or point has.
    """

    grids: Callable[[list[Size]], list[AnchorGrid]]
    student: BoxCoder
    teacher: BoxCoder
    classes: int


@dataclass(frozen=True)
class Proposals:
    """The R proposals that a box head of the student was trained on in this step, image after image; on the device.

    The class scores of both sides have a column for every label, the background's among them, wherever it stands.

    Attributes:
        labels: (R,) int64, the column of each one's class; -1 where it does not count.
        background: the column of the background.
        targets: gives what the student's box numbers should be, (R, 4) in its own encoding; any number for background.
        rescale: what the teacher's four box numbers are multiplied by to be in the student's encoding.
    """

    labels: Tensor
    background: int
    targets: Callable[[], Tensor]
    rescale: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    @property
    def foreground(self) -> Tensor:
        """(R,) bool: where there is an object."""
        return (self.labels >= 0) & (self.labels != self.background)


@dataclass
class BatchInfo:
    """One training batch as the losses see it.

    Attributes:
        image_sizes: (H, W) of each resized image, without padding.
        padded_size: (H, W) of the batch.
        boxes: per image (M, 4), float32; M is 0 in a task without boxes. They stay where the data loader put them (the
            host): index work on them then costs no synchronization.
        iteration: optimizer steps done before this one.
        batch: number of this batch among those of its optimizer step, from 0.
        seed: the run's seed; random draws of a loss come from ``generator`` or ``uniform_per_image``.
        loss_name: name of the loss that is being evaluated; two losses of one type draw differently.
        rank, ranks: this process among those that share a training step. Image i here is image ``i * ranks + rank`` of
            the whole batch.
        labels: classes on the device: (N,) int64 of whole images, (N, H, W) int64 of pixels in the padded batch, or (N,
            K) class probabilities of mixed images; None where a task has none. Pixels without a class, padding and
            unlabeled images hold ``ignore_label``.
        anchors: given the (H, W) of a tap's maps, the student's own anchor grids on them; None for anchor-free
            students.
        coding: how the dense heads of both sides encode boxes; None where they have none, or not one to one.
        proposals: of each box head of the student, the stages of a cascade in order, when the teacher's heads ran on
            them; empty otherwise.
        images: gives the batch as the student's first layer sees it, (N, 3, H, W) normalized and padded; None where a
            task does not offer it.
    """

    image_sizes: list[Size]
    padded_size: Size
    boxes: list[Tensor] = field(default_factory=list)
    iteration: int = 0
    batch: int = 0
    seed: int = 0
    loss_name: str = ""
    rank: int = 0
    ranks: int = 1
    labels: Tensor | None = None
    ignore_label: int = IGNORE_LABEL
    anchors: Callable[[list[Size]], list[AnchorGrid]] | None = None
    coding: BoxCoding | None = None
    proposals: list[Proposals] = field(default_factory=list)
    images: Callable[[], Tensor] | None = None

    def __post_init__(self) -> None:
        self.boxes = self.boxes or [torch.zeros(0, 4) for _ in self.image_sizes]

    def generator(self, device: torch.device, stream: int = 0) -> torch.Generator:
        """A generator on ``device`` by seed, iteration, batch, loss and ``stream``: a resumed run repeats it."""
        mixed = 0
        place = stream + self.batch * _STREAMS
        for part in (self.seed, self.iteration, zlib.crc32(self.loss_name.encode()), place):
            mixed = mixed * 1_000_003 + part
        return torch.Generator(device).manual_seed(mixed % (1 << 63))

    def uniform_per_image(self, images: int, device: torch.device, stream: int = 0) -> Tensor:
        """U(0, 1) for each of this process's images, (images,) float32, however many processes share the batch."""
        draws = torch.rand(images * self.ranks, generator=self.generator(device, stream), device=device)
        return draws[self.rank :: self.ranks]


def match_levels(wanted: list[Size], available: list[Size]) -> list[int]:
    """Indices of ``available`` sizes (H, W) that meet ``wanted`` in order: a tap may leave levels out.

    Raises:
        ConfigError: a wanted size is not there.
    """
    indices, start = [], 0
    for size in wanted:
        if size not in available[start:]:
            raise ConfigError(f"no anchors for a map of {size} cells; the student's anchors lie on {available}")
        indices.append(available.index(size, start))
        start = indices[-1] + 1
    return indices
