"""Two processes: one DistributedDataParallel goes around the whole distiller.

Around the student alone it would average the student's gradients only: the adapters of the losses would drift apart
between the ranks without any error.
"""

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from ..helpers.ranks import in_two_ranks
from ..helpers.toys import IMITATION, batch, distiller

# The second loss rests: its parameters must take part all the same.
BLOCKS = {"imitation": IMITATION | {"WEIGHT": 1.0}, "late": IMITATION | {"WEIGHT": 1.0, "START_ITER": 100}}


def work(rank: int) -> dict[str, torch.Tensor]:
    model = DistributedDataParallel(distiller(BLOCKS))
    for step in range(2):  # a parameter that no loss reaches is reported at the second step only
        model.zero_grad()
        sum(model(batch(seed=10 * step + rank)).values()).backward()
    return {name: p.grad for name, p in model.module.named_parameters()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """Gradients of both ranks after two steps on different images."""
    return in_two_ranks(work, tmp_path_factory.mktemp("ranks"))


def test_gradients_of_student_and_adapters_are_equal_on_both_ranks(ranks):
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])


def test_they_are_the_mean_of_the_gradients_of_each_rank(ranks):
    own = []
    for rank in range(2):
        model = distiller(BLOCKS)
        sum(model(batch(seed=10 + rank)).values()).backward()
        own.append(dict(model.named_parameters()))
    for name, found in ranks[0].items():
        torch.testing.assert_close(found, (own[0][name].grad + own[1][name].grad) / 2, rtol=1e-4, atol=1e-6)


def test_adapters_of_the_active_loss_have_gradients(ranks):
    assert all(g.abs().sum() > 0 for name, g in ranks[0].items() if name.startswith("losses.imitation."))
