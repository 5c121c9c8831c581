"""One-to-many matching: every position takes a softmax mix of all values, compared with its target.

Letters: B independent attentions (images times groups times heads), P positions, d channels.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Similarities (B, P, P) that are in memory at once on the CPU: 2 MiB, which the cache of one core still serves.
_AT_ONCE = 1 << 19


def matching_distance(query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """``sum (softmax(query key^T) value - target)^2`` without a P x P map in memory.

    The similarities are neither scaled nor normalised. The gradient goes to query, key and value.

    Args:
        query, key, value, target: (B, P, d), contiguous, of one precision (float32 or better: similarities are sums of
            hundreds of products).

    Source: Lin et al., CVPR 2022 (arXiv 2205.10793), section 3.2.
    """
    return (_blockwise if query.device.type == "cpu" else _fused)(query, key, value, target)


def _fused(query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
    # With a head axis and a unit last stride: anything else silently falls back to the P x P map.
    mixed = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None], scale=1.0)[:, 0]
    return (mixed - target).square().sum()


def _blockwise(query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
    return _Blockwise.apply(query, key, value, target)


class _Blockwise(torch.autograd.Function):
    """A block of rows at a time. The gradient is taken in the forward pass, while a block is in the cache.

    The loss is known as soon as a block is, and its gradient up to the incoming factor. So no similarity is computed
    twice (a fused attention does so in the backward pass), and an input that takes no gradient costs nothing.
    """

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
        wanted = ctx.needs_input_grad
        to_query = torch.empty_like(query) if wanted[0] else None
        to_key, to_value = (torch.zeros_like(x.mT) if w else None for x, w in ((key, wanted[1]), (value, wanted[2])))
        total = query.new_zeros(())
        for some, rows in _blocks(len(query), query.shape[1]):
            q, k, v = query[some, rows], key[some], value[some]
            attention = (q @ k.mT).softmax(-1)
            mixed = attention @ v
            error = mixed - target[some, rows]
            total += error.square().sum()
            if wanted[2]:
                to_value[some].baddbmm_(error.mT, attention)
            if wanted[0] or wanted[1]:
                similarity = (error @ v.mT).sub_((error * mixed).sum(-1, keepdim=True)).mul_(attention)
            if wanted[0]:
                to_query[some, rows] = similarity @ k
            if wanted[1]:
                to_key[some].baddbmm_(q.mT, similarity)
        ctx.save_for_backward(to_query, to_key, to_value)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = (None if x is None else x * (2 * gradient) for x in ctx.saved_tensors)
        return query, None if key is None else key.mT, None if value is None else value.mT, None


def _blocks(batch: int, positions: int) -> Iterator[tuple[slice, slice]]:
    """Slices of the attentions and of their rows, with at most ``_AT_ONCE`` similarities each."""
    rows = max(_AT_ONCE // max(positions, 1), 1)
    together = max(_AT_ONCE // max(positions * positions, 1), 1)
    for first in range(0, batch, together):
        for row in range(0, positions, rows):
            yield slice(first, first + together), slice(row, row + rows)
