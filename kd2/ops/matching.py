"""One-to-many matching: every position takes a softmax mix of all values, compared with its target.

Letters: B independent attentions (images times groups times heads), P positions, d channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kd2.ops.sparse_attention import Entries, few_entries

# Similarities (B, P, P) that are worked on at once on the CPU: 2 MiB, which the cache of one core still serves.
_AT_ONCE = 1 << 19
# The search for few entries reads a block three times only: larger ones, up to a quarter of P x P, suit its product.
_TIMES_FOR_SEARCH = 8


def matching_distance(query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
    """``sum (softmax(query key^T) value - target)^2`` without a P x P map in memory.

    The similarities are neither scaled nor normalized. The gradient goes to query, key and value.

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

    Unscaled similarities of many channels make an attention nearly one-hot. Of a large one that is, only the first of
    the six matrix products is computed whole.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, target: Tensor) -> Tensor:
        inputs, wanted = (query, key, value, target), ctx.needs_input_grad
        # Halves of the gradients, transposed: that is how the maps lie that they flow to.
        slopes = [x.new_empty(x.mT.shape) if w else None for x, w in zip(inputs[:3], wanted[:3], strict=True)]
        total = query.new_zeros(())
        batch, positions = query.shape[:2]
        rows = max(_AT_ONCE // max(positions, 1), 1)
        together = max(rows // max(positions, 1), 1)
        for first in range(0, batch, together):
            some = slice(first, first + together)
            searched = min(_TIMES_FOR_SEARCH * rows, positions // 4)
            entries = few_entries(query[first], key[first], searched) if rows < positions else None
            if entries is None:
                total += _whole(rows, [x[some] for x in inputs], [_part(x, some) for x in slopes])
            else:
                total += _kept(entries, [x[first] for x in inputs], [_part(x, first) for x in slopes])
        ctx.save_for_backward(*slopes)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if x is None else (x * (2 * gradient)).mT for x in ctx.saved_tensors), None


def _part(x: Tensor | None, some: slice | int) -> Tensor | None:
    return None if x is None else x[some]


def _whole(at_once: int, inputs: list[Tensor], slopes: list[Tensor | None]) -> Tensor:
    """The distance of some attentions, inputs (B, P, d), ``at_once`` rows at a time; fills the slopes (B, d, P).

    The first block sets the sums over rows (``beta`` 0), the others add to them.
    """
    (query, key, value, target), (to_query, to_key, to_value) = inputs, slopes
    total = query.new_zeros(())
    for row in range(0, query.shape[1], at_once):
        rows = slice(row, row + at_once)
        q = query[:, rows]
        attention = (q @ key.mT).softmax(-1)
        mixed = attention @ value
        error = mixed - target[:, rows]
        total += error.square().sum()
        if to_value is not None:
            to_value.baddbmm_(error.mT, attention, beta=min(row, 1))
        if to_query is None and to_key is None:
            continue
        similarity = (error @ value.mT).sub_((error * mixed).sum(-1, keepdim=True)).mul_(attention)
        if to_query is not None:
            to_query[:, :, rows] = (similarity @ key).mT
        if to_key is not None:
            to_key.baddbmm_(q.mT, similarity, beta=min(row, 1))
    return total


def _kept(attention: Entries, inputs: list[Tensor], slopes: list[Tensor | None]) -> Tensor:
    """The distance of one attention whose entries are given, inputs (P, d); fills the slopes (d, P)."""
    (query, key, value, target), (to_query, to_key, to_value) = inputs, slopes
    mixed = attention @ value
    error = mixed - target
    along = (error * mixed).sum(-1).index_select(0, attention.rows)
    similarity = attention._replace(values=attention.products(error, value).sub_(along).mul_(attention.values))
    by_column = attention.transposed(attention.values, similarity.values)
    for slope, matrix, x in (
        (to_query, similarity, key),
        (to_value, by_column[0], error),
        (to_key, by_column[1], query),
    ):
        if slope is not None:
            slope.copy_((matrix @ x).mT)
    return error.square().sum()
