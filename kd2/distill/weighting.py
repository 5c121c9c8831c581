"""How strongly a loss teaches: by a share of the student's own gradient instead of a weight.

With a share s the gradient that a loss sends into every tapped student map has s times the norm of the gradient that
the student's own losses send there. It is scaled in the backward pass, behind the adapters, which learn at full
strength.

Precedent: RT-DETRv4 (arXiv 2510.25257) keeps the ratio of two gradient norms at one place of the student.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from kd2.distill.errors import ConfigError, NonFiniteLoss

logger = logging.getLogger(__name__)
Gradients = Sequence[Tensor | None]
Losses = dict[str, Tensor]

# The most iterations between two measurements, which lie ever further apart: adapters start near zero and the student's
# own gradient falls, so that the ratio of the two changes by orders of magnitude, the faster the younger a run is.
LARGEST_GAP = 100
# What a measurement leaves of the sum of those before it.
_KEPT = 0.75

# What losses are multiplied by, one after another until no gradient overflows, while gradients are taken in float16:
# below 6e-8 they would vanish. Powers of two change no other digit.
_HALF_SCALES = (2.0**12, 2.0**4, 2.0**-4)


_NOTHING = (
    "a SHARE is of the gradient that the student's own losses send into the tap, and they send none; give a WEIGHT"
)

_BROKEN = (
    f"the gradients at its tap were NaN or infinite in {LARGEST_GAP} batches one after another, nothing is taught; "
    "clip what the adapters learn by (Distiller.clip_adapters), or lower the learning rate"
)


class GradientShare(nn.Module):
    """Measures two gradients now and then, and holds the factors that bring their ratio to 1.

    In the iteration t behind the first measurement the next one follows after t / ``iterations`` iterations, at most
    after ``LARGEST_GAP``. An iteration in which one of the two sides sends no gradient does not count. A map into which
    the loss sent none so far takes the smallest factor of the others. A map into which the student's own losses send
    none gets nothing. The loss sees maps of float16 in float32, so that its gradient is scaled before it is rounded.

    Args:
        name: of the loss, for a warning.
        levels: how many maps the loss is tapped at.
        iterations: how many are measured one after another in the beginning, 1 or more.
    """

    own: Tensor
    sent: Tensor
    seen: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, name: str, levels: int, iterations: int):
        super().__init__()
        self.name, self.iterations = name, iterations
        # Sums of squared gradients over iterations, the older the less, of the mean of the processes' losses.
        self.register_buffer("own", torch.zeros(levels))
        self.register_buffer("sent", torch.zeros(levels))
        # How many batches were measured, and the iterations of the first and of the last one.
        for name in ("seen", "first", "last"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64))
        self._seen = self._first = self._last = 0  # on the host, where asking costs nothing
        self._silent = 0  # batches in which the student's own losses sent nothing, before the first that counted
        self._idle = 0  # batches in which this loss sent nothing, before the first that counted
        self._broken = 0  # the last batches, one after another, with gradients that are not finite
        self.register_load_state_dict_post_hook(lambda share, _: share._count())

    def measures(self, iteration: int) -> bool:
        """Whether the gradients of ``iteration`` are measured, in every batch of an optimizer step."""
        gap = min(max((iteration - self._first) // self.iterations, 1), LARGEST_GAP)
        return not self._seen or iteration == self._last or iteration >= self._last + gap

    def forward(
        self,
        maps: list[Tensor],
        share: float,
        iteration: int,
        own: Gradients | None,
        call_loss: Callable[[list[Tensor]], Losses],
    ) -> tuple[Losses, Tensor]:
        """The values of a loss, unweighted, whose gradient at the maps is scaled to ``share``.

        Args:
            maps: L student maps.
            share: norm of the loss's gradient at each map relative to that of the student's own losses.
            iteration: optimizer steps done so far.
            own: gradients of the student's own losses at the maps, of an iteration that is measured.
            call_loss: maps to the values.

        Returns:
            The values, and the factors (L,) of the loss's gradients.

        Raises:
            ConfigError: the student's own losses send no gradient into any map.
            NonFiniteLoss: see ``observe``.
        """
        scale = share * self.factors()
        inside = [_Scaled.apply(x, factor) for x, factor in zip(maps, scale.unbind(), strict=True)]
        values = call_loss(inside)
        if self.measures(iteration):
            self.observe(iteration, own or [], gradients_at(values, {"": inside})[""])
            scale.copy_(share * self.factors())
        return values, scale

    def observe(self, iteration: int, own: Gradients, sent: Gradients) -> None:
        """Take in the gradients of one batch at every map, of the student's own losses and of this one.

        Every process of the run calls it in the same iterations.

        Raises:
            ConfigError: the own losses do not depend on any map, or their gradients were 0 in the first
                ``LARGEST_GAP`` batches.
            NonFiniteLoss: gradients were NaN or infinite in ``LARGEST_GAP`` batches one after another.
        """
        if all(x is None for x in own):
            raise ConfigError(_NOTHING)
        squares = torch.stack([_squares(own), _squares(sent)]).to(self.own)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(squares)
            # Losses are means over a process's images: as large as those of one process with all images.
            squares /= distributed.get_world_size() ** 2
        self._broken = 0 if squares.isfinite().all() else self._broken + 1
        if self._broken == LARGEST_GAP:
            raise NonFiniteLoss(_BROKEN)
        if self._broken or not squares.any(1).all():
            self._silent += not squares[0].any()
            if not self._seen and self._silent == LARGEST_GAP:
                raise ConfigError(f"{_NOTHING} (all of them were 0 in {LARGEST_GAP} batches)")
            if not (self._seen or squares[1].any()):
                self._count_idle()
            return
        self.own.mul_(_KEPT).add_(squares[0] * (squares[1] > 0))
        self.sent.mul_(_KEPT).add_(squares[1])
        if not self._seen:
            self.first.fill_(iteration)
        self.last.fill_(iteration)
        self.seen += 1
        self._seen, self._first, self._last = self._seen + 1, self._first if self._seen else iteration, iteration

    def _count_idle(self) -> None:
        self._idle += 1
        if self._idle == LARGEST_GAP:
            logger.warning("KD.LOSSES.%s sent no gradient in %d batches: it teaches nothing", self.name, LARGEST_GAP)

    def factors(self) -> Tensor:
        """What the loss's gradient at each map is multiplied by for a share of 1, (L,), on the device."""
        ratios = torch.where(self.sent > 0, (self.own / self.sent).sqrt(), torch.inf)
        return torch.where(self.sent > 0, ratios, ratios.min()).nan_to_num(posinf=0.0)

    def _count(self) -> None:
        self._seen, self._first, self._last = int(self.seen), int(self.first), int(self.last)


class _Scaled(torch.autograd.Function):
    """The identity, of float16 in float32; its gradient is multiplied by a scalar, which may change until the backward
    pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        ctx.scale, ctx.dtype = scale, x.dtype
        return x.float() if x.dtype == torch.float16 else x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return (gradient * ctx.scale).to(ctx.dtype), None


def gradients_at(losses: Losses, maps: Mapping[str, list[Tensor]]) -> dict[str, list[Tensor | None]]:
    """Gradients of the sum of ``losses`` at every map, in one backward pass that leaves the graph as it is.

    None stands for a map that the losses do not depend on. Gradients that are float16 on their way come in float32,
    and none of them vanishes; where they overflow the pass is repeated.
    """
    values = [loss for loss in losses.values() if loss.requires_grad]
    wanted = [x for tap in maps.values() for x in tap if x.requires_grad]
    if not values or not wanted:
        return {name: [None] * len(tap) for name, tap in maps.items()}
    found = iter(_in_half(values, wanted) if _is_half(wanted) else _gradients(values, wanted))
    return {name: [next(found) if x.requires_grad else None for x in tap] for name, tap in maps.items()}


def refuse_constant(maps: Sequence[Tensor]) -> None:
    """Raises ConfigError where gradients are kept and none of a student's maps has one: nothing would learn from it."""
    if torch.is_grad_enabled() and not any(x.requires_grad for x in maps):
        raise ConfigError("the student's maps have no gradient: what lies before the tap is frozen, nothing is taught")


def _gradients(values: Sequence[Tensor], maps: Sequence[Tensor]) -> Gradients:
    try:
        return torch.autograd.grad(values, maps, retain_graph=True, allow_unused=True)
    except RuntimeError as error:
        if "use_reentrant" not in str(error) and ".grad()" not in str(error):
            raise
        text = "a SHARE is measured at the tap, which a checkpoint with use_reentrant=True forbids; expected False"
        raise ConfigError(text) from None


def _is_half(maps: Sequence[Tensor]) -> bool:
    """Whether gradients at these maps are float16, or were on their way."""
    kind = maps[0].device.type
    mixed = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.float16
    return mixed or any(x.dtype == torch.float16 for x in maps)


def _in_half(values: Sequence[Tensor], maps: Sequence[Tensor]) -> Gradients:
    found: Gradients = []
    for scale in _HALF_SCALES:
        scaled = _gradients([scale * value.float() for value in values], maps)
        found = [None if x is None else x.float() / scale for x in scaled]
        if all(x is None or x.isfinite().all() for x in found):
            break
    return found


def _squares(gradients: Gradients) -> Tensor:
    device = next((x.device for x in gradients if x is not None), None)
    norms = [torch.zeros((), device=device) if x is None else x.float().square().sum() for x in gradients]
    return torch.stack(norms)
