"""Two processes with PI, PA and HO: the same gradients on both, and the losses of one process with the whole batch."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..helpers.ranks import in_two_ranks
from ..helpers.segmenter import SHARED, STRUCTURED, batch, distiller, optimizer

STEPS = 4
BLOCKS = {"weights": STRUCTURED, "shares": SHARED}


def trained(model: nn.Module, images: slice) -> dict:
    """Losses and stats of each step, and the last gradients and buffers, on these images of every batch."""
    inner = getattr(model, "module", model)
    solver, curve = optimizer(inner), []
    for step in range(STEPS):
        inner.iteration = step
        solver.zero_grad()
        losses = model(batch(step, images))
        sum(losses.values()).backward()
        curve.append({name: value.detach() for name, value in (losses | inner.stats).items()})
        solver.step()
    gradients = {name: p.grad for name, p in inner.named_parameters()}
    return {"curve": curve, "gradients": gradients, "buffers": dict(inner.losses.named_buffers())}


def work(rank: int) -> dict[str, dict]:
    images = slice(rank, None, 2)
    return {name: trained(DistributedDataParallel(distiller(blocks)), images) for name, blocks in BLOCKS.items()}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> list[dict[str, dict]]:
    return in_two_ranks(work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module", params=BLOCKS)
def strength(request) -> str:
    """The losses have weights, or shares."""
    return request.param


@pytest.fixture(scope="module")
def ranks(found, strength) -> list[dict]:
    return [rank[strength] for rank in found]


@pytest.fixture(scope="module")
def alone(strength) -> dict:
    return trained(distiller(BLOCKS[strength]), slice(None))


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_gradients_and_buffers_are_equal_on_both_ranks(ranks):
    for kind in ("gradients", "buffers"):
        assert ranks[0][kind].keys() == ranks[1][kind].keys()
        assert all(torch.equal(ranks[0][kind][name], ranks[1][kind][name]) for name in ranks[0][kind])


def test_the_mean_of_the_ranks_losses_is_that_of_one_process_with_the_whole_batch(ranks, alone):
    parts = {"loss_pixelwise", "loss_pairwise", "loss_holistic_student", "loss_holistic_critic"}
    assert parts <= alone["curve"][0].keys()
    for first, second, whole in zip(ranks[0]["curve"], ranks[1]["curve"], alone["curve"]):
        close({name: (first[name] + second[name]) / 2 for name in whole}, whole)


def test_the_gradients_are_those_of_one_process_with_the_whole_batch(ranks, alone):
    close(ranks[0]["gradients"], alone["gradients"])


def test_each_rank_has_its_own_images(ranks):
    for a, b in zip(ranks[0]["curve"], ranks[1]["curve"]):
        assert all(a[name] != b[name] for name in a if not name.startswith("share/"))


def test_the_ranks_take_the_same_factors_for_a_share(ranks, strength):
    for a, b in zip(ranks[0]["curve"], ranks[1]["curve"]):
        factors = {name for name in a if name.startswith("share/")}
        assert len(factors) == (3 if strength == "shares" else 0) and all(a[name] == b[name] for name in factors)
