"""Holistic distillation (HO): a critic learns to tell the teacher's score maps from the student's, who learns from it.

Source: Liu et al., "Structured Knowledge Distillation for Semantic Segmentation", CVPR 2019 (arXiv 1903.04197), section
3.2, eq. 4-6. The gradient penalty: Gulrajani et al., NeurIPS 2017 (arXiv 1704.00028).
Letters: N images, C classes, H x W score map.
"""

from collections.abc import Callable
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from kd2.distill import BatchInfo, ConfigError, FeatureSpec, ParameterGroupOverride
from kd2.distill.values import Count, NonNegative, Range
from kd2.losses.logit_checks import check_classes
from kd2.losses.registry import register_loss
from kd2.networks.critic import SMALLEST, Critic, Input
from kd2.ops.precision import wide
from kd2.ops.resize import Resize, check_sizes, same_size

Loss = Literal["wgan-gp", "hinge"]
Width = Annotated[int, Range("an even number of at least 2", low=2, multiple=2)]


def critic_loss(real: Tensor, fake: Tensor, loss: Loss) -> Tensor:
    """What the critic minimizes, without penalty, from its outputs on teacher maps (real) and student maps (fake)."""
    if loss == "hinge":
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
    return fake.mean() - real.mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, share: Tensor) -> Tensor:
    """``mean_i (|d sum(D(x)) / dx_i| - 1)^2`` at ``x = share * real + (1 - share) * fake``; the maps get no gradient.

    Args:
        critic: D, of maps (N, C, H, W).
        share: (N,) in [0, 1].
    """
    share = share.view(-1, 1, 1, 1)
    x = (share * real + (1 - share) * fake).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(x).sum(), x, create_graph=True)
    norm = (slope.square().sum((1, 2, 3)) + 1e-12).sqrt()  # the root alone has an infinite slope at 0
    return (norm - 1).square().mean()


@register_loss("holistic")
class Holistic(nn.Module):
    """The HO loss: two losses in one backward, ``student`` = ``-mean D(S)`` and ``critic`` = ``critic_loss`` + penalty.

    The student's part takes the critic's weights as constants, the critic's part the maps, so neither disturbs the
    other; both see what was there before the step, as the authors' two steps do. The critic runs on S (for the
    student), T, S and the mixture, in this order, in at least float32. It has a solver of its own (``LR``,
    ``WEIGHT_DECAY``, ``CLIP``).
    The schedule multiplies both losses: the paper's 0.1 is the WEIGHT.

    Several processes: each takes means over its own N images and DistributedDataParallel averages the gradients. With
    equal N in all processes that is the loss of the whole batch exactly, however many processes share it (the mixture's
    share belongs to the image). ``batch_norm`` alone differs: each process normalizes with its own images' statistics.

    Args:
        student, teacher: what the probe saw of the tap, one score map of C classes on both sides.
        loss: ``wgan-gp`` as in the paper, or ``hinge``, which has no penalty.
        input: what the critic sees of the raw scores. ``batch_norm``, the authors' code, couples the images of a batch;
            ``softmax`` with ``condition: image`` is the conference form.
        condition: ``image`` puts the input image before the scores, resized to the map.
        width: channels of the critic's first layer; the authors' is 64.
        penalty: factor of the gradient penalty. It is taken of the raw scores, the image being constant.
        enlarge: both maps are enlarged by this factor, for maps of fewer than 64 cells a side.
        resize: the side that is interpolated when sizes differ.
        lr, weight_decay, clip: the critic's, see ``kd2.distill.ParameterGroupOverride``.

    Attributes:
        stats: of the last call, for the log: ``distance`` = mean D(T) - mean D(S), and ``gradient_penalty`` without its
            factor.

    Raises:
        ConfigError: more than one map; class counts that differ; sizes that differ without ``resize``. From a
            call: maps below the critic's smallest size.
    """

    def __init__(
        self,
        student: list[FeatureSpec],
        teacher: list[FeatureSpec],
        *,
        loss: Loss = "wgan-gp",
        input: Input = "batch_norm",
        condition: Literal["none", "image"] = "none",
        width: Width = 64,
        penalty: NonNegative = 10.0,
        enlarge: Count = 1,
        resize: Resize = "none",
        lr: NonNegative = 4e-4,
        weight_decay: NonNegative = 5e-4,
        clip: NonNegative = 0.0,
    ):
        super().__init__()
        if len(student) != 1:
            raise ConfigError(f"the tap has {len(student)} maps, the critic looks at one: the score map")
        check_sizes(student, teacher, resize)
        check_classes(student, teacher)
        self.loss, self.penalty, self.enlarge, self.resize = loss, penalty, enlarge, resize
        self.conditional = condition == "image"
        solver = ParameterGroupOverride(lr, weight_decay, clip)
        self.critic = Critic(student[0].channels, width, input, self.conditional, solver)
        self.parts = ("student", "critic")
        self.needs = frozenset(["images"] * self.conditional)
        self.stats: dict[str, Tensor] = {}

    def forward(self, student: list[Tensor], teacher: list[Tensor], batch_info: BatchInfo) -> dict[str, Tensor]:
        """The unweighted losses of one student map and one teacher map (N, C, H, W), by part."""
        with torch.autocast(student[0].device.type, enabled=False):
            dtype = wide(student[0], teacher[0])
            fake, real = same_size(student[0].to(dtype), teacher[0].to(dtype), self.resize)
            check_cells((fake.shape[2], fake.shape[3]), self.enlarge)
            if self.enlarge > 1:
                fake, real = (self.enlarged(x) for x in (fake, real))
            image = resized_images(batch_info, fake) if self.conditional else None
            frozen = {name: weight.detach() for name, weight in self.critic.named_parameters()}
            for_student = -functional_call(self.critic, frozen, (fake, image)).mean()
            return {"student": for_student, "critic": self.critic_part(real, fake.detach(), image, batch_info)}

    def critic_part(self, real: Tensor, fake: Tensor, image: Tensor | None, batch_info: BatchInfo) -> Tensor:
        """What the critic minimizes, from detached maps; sets ``stats``."""
        of_real, of_fake = self.critic(real, image), self.critic(fake, image)
        loss = critic_loss(of_real, of_fake, self.loss)
        self.stats = {"distance": (of_real.mean() - of_fake.mean()).detach()}
        if self.loss == "hinge":
            return loss
        penalty = gradient_penalty(lambda x: self.critic(x, image), real, fake, self.shares(real, batch_info))
        self.stats["gradient_penalty"] = penalty.detach()
        return loss + self.penalty * penalty

    def enlarged(self, x: Tensor) -> Tensor:
        """A map ``enlarge`` times as high and wide, corners aligned."""
        return F.interpolate(x, scale_factor=self.enlarge, mode="bilinear", align_corners=True)

    def shares(self, real: Tensor, batch_info: BatchInfo) -> Tensor:
        """The teacher's share (N,) in the mixture of each image, U(0, 1)."""
        return batch_info.uniform_per_image(len(real), real.device).to(real.dtype)


def check_cells(size: tuple[int, int], enlarge: int) -> None:
    """Raises ConfigError when a map of ``size`` (H, W), enlarged, is too small for the critic."""
    if min(size) * enlarge < SMALLEST:
        needed = -(-SMALLEST // min(size))
        now = f" (ENLARGE {enlarge} makes it {(size[0] * enlarge, size[1] * enlarge)})" if enlarge > 1 else ""
        raise ConfigError(
            f"a score map has {size} cells{now}, the critic needs {SMALLEST} on each side: "
            f"train on larger images, or say ENLARGE: {needed}"
        )


def resized_images(batch_info: BatchInfo, like: Tensor) -> Tensor:
    """The batch's images (N, 3, H, W) at the size of the map ``like``, corners aligned."""
    if batch_info.images is None:
        raise ConfigError("CONDITION is 'image', but this kind of model hands no images to its losses; say none")
    return F.interpolate(batch_info.images().to(like.dtype), like.shape[2:], mode="bilinear", align_corners=True)
