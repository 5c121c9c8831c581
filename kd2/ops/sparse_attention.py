"""Attention that is nearly one-hot, as the few entries that count.

Letters: P positions, d channels, E entries.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# The largest share of the P x P entries that is worth it: beyond, whole matrix products are about as fast.
_SHARE = 1 / 32


class Entries(NamedTuple):
    """Entries of a P x P matrix, row by row: rows and columns (E,), where each row starts (P + 1,), values (E,)."""

    rows: Tensor
    columns: Tensor
    starts: Tensor
    values: Tensor

    def __matmul__(self, x: Tensor) -> Tensor:
        """The matrix times ``x`` (P, d)."""
        return F.embedding_bag(
            self.columns, x, self.starts, mode="sum", per_sample_weights=self.values, include_last_offset=True
        )

    def products(self, a: Tensor, b: Tensor) -> Tensor:
        """The entries of ``a b^T``, both (P, d), at the places of this matrix (E,).

        They are the gradient of ``sum a * (self @ b)`` with respect to the values.
        """
        with torch.enable_grad():
            values = self.values.detach().requires_grad_()
            return torch.autograd.grad(self._replace(values=values) @ b.detach(), values, a)[0]

    def transposed(self, *values: Tensor) -> list["Entries"]:
        """The transposed matrix, once for each of other ``values`` (E,)."""
        order = self.columns.sort(stable=True).indices
        starts = _starts(self.columns, len(self.starts) - 1)
        rows, columns, *ordered = (_at(x, order) for x in (self.columns, self.rows, *values))
        return [Entries(rows, columns, starts, x) for x in ordered]


def few_entries(query: Tensor, key: Tensor, at_once: int) -> Entries | None:
    """``softmax(query key^T)``, both (P, d), without the entries below half an ulp of their row's largest one.

    What is left out is below the rounding error of the sums over a row that it would enter.

    Args:
        at_once: rows of similarities that are in memory at once.

    Returns:
        None when more than 1/32 of the entries seen so far count. NaN counts.
    """
    positions = len(query)
    reach = -math.log(torch.finfo(query.dtype).eps / 2)
    similar = query.new_empty(min(at_once, positions), positions)
    small = torch.empty_like(similar, dtype=torch.bool)
    found, powers, seen = [], [], 0
    # The first rows are few: on an even attention no more than they are looked at.
    for first, end in pairwise([0, *range(max(at_once // 16, 1), positions, at_once), positions]):
        some = query[first:end]
        block = torch.mm(some, key.mT, out=similar[: len(some)])
        top = block.amax(1, keepdim=True)
        below = torch.lt(block, top - reach, out=small[: len(some)])
        place = _places(below.logical_not_().flatten())
        seen += len(place)
        if seen > _SHARE * positions * end:
            return None
        powers.append(_at(block.flatten(), place).sub_(_at(top[:, 0], place // positions)).exp_())
        found.append(place.add_(first * positions))
    place, power = torch.cat(found), torch.cat(powers)
    rows = place // positions
    sums = power.new_zeros(positions).index_add_(0, rows, power)
    return Entries(rows, place % positions, _starts(rows, positions), power / _at(sums, rows))


def _places(flags: Tensor) -> Tensor:
    """The indices of the true ones of (N,) flags, few of them: where eight divides N, eight are looked at as one."""
    if len(flags) % 8:
        return flags.nonzero()[:, 0]
    groups = flags.view(torch.int64).nonzero()[:, 0]
    within = flags.view(-1, 8).index_select(0, groups).flatten().nonzero()[:, 0]
    return _at(groups, within // 8).mul_(8).add_(within % 8)


def _starts(members: Tensor, positions: int) -> Tensor:
    return F.pad(members.bincount(minlength=positions).cumsum(0), (1, 0))


def _at(x: Tensor, places: Tensor) -> Tensor:
    """``x[places]`` of one axis, several times as fast on the CPU."""
    return x.index_select(0, places)
