"""A loss teaches by a share of the student's own gradient."""

import copy

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kd2.distill import ConfigError, Distiller, NonFiniteLoss
from kd2.distill.weighting import LARGEST_GAP, GradientShare

from ..helpers.ranks import in_two_ranks
from ..helpers.toys import IMITATION, batch, distiller

PLAIN = {"TYPE": "mimic", "REDUCTION": "mean"}


def shared(**block) -> Distiller:
    measured = {} if "WEIGHT" in block else {"CALIBRATE_ITERS": 2}
    return distiller({"mimic": PLAIN | measured | block}, tap="fpn=backbone:p4")


def norms(model: Distiller, factor: float, seed: int = 0) -> tuple[float, float]:
    """Gradient norms at the map: of the student's own losses, and of distillation."""
    given = batch(seed)
    own, maps = model.student_features(given)
    found = model.distillation_losses(
        own, maps, model.teacher_features(given), model.placed_batch_info(given), {"mimic": factor}
    )
    return tuple(
        torch.autograd.grad(sum(losses.values()), maps["fpn"], retain_graph=True)[0].norm().item()
        for losses in (own, found)
    )


def step(model: Distiller, seed: int = 0) -> dict[str, Tensor]:
    model.zero_grad()
    losses = model(batch(seed))
    sum(losses.values()).backward()
    return losses


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_the_gradient_at_a_map_has_the_share_of_the_students_own(share):
    own, sent = norms(shared(SHARE=share, CALIBRATE_ITERS=1), share)
    assert sent == pytest.approx(share * own, rel=1e-4)


def test_two_losses_at_one_tap_have_each_its_own_share():
    blocks = {"a": PLAIN | {"SHARE": 0.5}, "b": PLAIN | {"REDUCTION": "sum_per_image", "SHARE": 3.0}}
    model, given = distiller(blocks, tap="fpn=backbone:p4"), batch()
    own, maps = model.student_features(given)
    found = model.distillation_losses(
        own, maps, model.teacher_features(given), model.placed_batch_info(given), {"a": 0.5, "b": 3.0}
    )
    sent = [found["loss_a"], found["loss_b"], own["loss_score"]]
    a, b, score = (torch.autograd.grad(x, maps["fpn"], retain_graph=True)[0].norm() for x in sent)
    assert [(a / score).item(), (b / score).item()] == pytest.approx([0.5, 3.0], rel=1e-4)


def test_every_level_has_its_own_factor():
    model = distiller({"mimic": PLAIN | {"SHARE": 0.5}})
    step(model)
    assert sorted(model.stats) == ["share/mimic/p3", "share/mimic/p4"]
    assert model.stats["share/mimic/p3"] != model.stats["share/mimic/p4"]


def test_a_loss_a_thousand_times_as_large_teaches_alike():
    small, large = shared(SHARE=0.5), shared(SHARE=0.5)
    large.losses["mimic"].register_forward_hook(lambda _module, _inputs, value: 1000 * value)
    step(small), step(large)
    for a, b in zip(small.student.parameters(), large.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_adapters_learn_at_full_strength_and_the_value_is_unweighted():
    model, plain = shared(SHARE=0.01), shared(WEIGHT=1.0)
    assert step(model)["loss_mimic"] == step(plain)["loss_mimic"]
    for a, b in zip(model.adapters.parameters(), plain.adapters.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_factors_stay_between_two_measurements():
    model = shared(SHARE=0.5)
    found = []
    for iteration in (0, 4, 5, 7):
        model.iteration = iteration
        step(model, iteration)
        found.append(model.stats["share/mimic/p4"].item())
    assert found[0] != found[1] == found[2] != found[3]


def measured(share: GradientShare, first: int, last: int) -> list[int]:
    found = []
    for iteration in range(first, last):
        if share.measures(iteration):
            share.observe(iteration, [torch.ones(1)], [torch.ones(1)])
            found.append(iteration - first)
    return found


@pytest.mark.parametrize("start", [0, 400])
def test_measurements_lie_ever_further_apart(start):
    found = measured(GradientShare("mimic", levels=1, iterations=10), start, start + 2000)
    assert found[:20] == list(range(20)) and found[20:25] == [21, 23, 25, 27, 29]
    assert {b - a for a, b in zip(found, found[1:]) if a >= 1100} == {LARGEST_GAP}
    gaps = [b - a for a, b in zip(found, found[1:])]
    assert gaps == sorted(gaps)


def test_every_batch_of_a_step_is_measured():
    share = GradientShare("mimic", levels=1, iterations=1)
    share.observe(7, [torch.ones(1)], [torch.ones(1)])
    assert share.measures(7) and share.measures(8)
    share.observe(11, [torch.ones(1)], [torch.ones(1)])
    assert share.measures(11) and not share.measures(12)


def test_a_share_follows_gradients_that_change_by_orders_of_magnitude():
    """As a power of time, the way an adapter that starts near zero grows."""
    share = GradientShare("mimic", levels=1, iterations=10)
    for iteration in range(1000):
        ratio = (1 + iteration) ** 1.25
        if share.measures(iteration):
            share.observe(iteration, [torch.ones(1)], [torch.full((1,), ratio)])
        assert 1 <= share.factors().item() * ratio < 2


def test_factors_stand_until_a_measurement_sees_a_gradient():
    share = GradientShare("mimic", levels=1, iterations=1)
    share.observe(0, [torch.full((1,), 3.0)], [torch.ones(1)])
    share.observe(LARGEST_GAP, [torch.ones(1)], [torch.zeros(1)])
    assert share.factors().tolist() == [3.0] and share.measures(LARGEST_GAP + 1)


def test_a_ramp_scales_the_share():
    model = shared(SHARE=0.5, RAMP_ITERS=1, CALIBRATE_ITERS=1)
    plain = shared(SHARE=0.5, CALIBRATE_ITERS=1)
    for strength, seed in ((0.5, 0), (1.0, 1)):
        step(model, seed), step(plain, seed)
        assert model.stats["share/mimic/p4"] == pytest.approx(strength * plain.stats["share/mimic/p4"].item(), rel=0.02)


def test_measuring_begins_when_the_loss_does():
    model = shared(SHARE=0.5, START_ITER=2)
    step(model), step(model)
    assert model.shares["mimic"].seen == 0
    step(model)
    assert model.shares["mimic"].seen == 1


def test_an_iteration_in_which_the_loss_is_zero_does_not_count():
    model = distiller({"imitation": IMITATION | {"SHARE": 0.5}})
    losses = model(batch(boxes=False))
    assert losses["loss_imitation"] == 0 and model.shares["imitation"].seen == 0
    model(batch())
    assert model.shares["imitation"].seen == 1


def test_a_loss_that_never_sends_a_gradient_is_told_once(caplog):
    model = distiller({"imitation": IMITATION | {"SHARE": 0.5}})
    told = "KD.LOSSES.imitation sent no gradient in 100 batches: it teaches nothing"
    for number in range(LARGEST_GAP + 5):
        model(batch(boxes=False))
        assert caplog.messages.count(told) == (number + 1 >= LARGEST_GAP)
    for _ in range(2):
        model(batch())
    assert caplog.messages == [told] and model.shares["imitation"].seen == 2


def test_a_level_without_gradient_while_measuring_takes_the_smallest_factor():
    share = GradientShare("mimic", levels=3, iterations=1)
    share.observe(0, [torch.ones(4), torch.ones(1), torch.ones(1)], [torch.ones(1), torch.ones(1), torch.zeros(1)])
    assert share.factors().tolist() == [2.0, 1.0, 1.0]


def test_a_level_that_the_students_own_losses_do_not_reach_gets_nothing():
    share = GradientShare("mimic", levels=2, iterations=1)
    share.observe(0, [torch.ones(1), None], [torch.ones(1), torch.ones(1)])
    assert share.factors().tolist() == [1.0, 0.0]


def test_an_iteration_without_a_gradient_of_the_students_own_does_not_count():
    share = GradientShare("mimic", levels=1, iterations=1)
    share.observe(0, [torch.zeros(1)], [torch.ones(1)])
    assert share.measures(1)
    share.observe(0, [torch.ones(1)], [torch.ones(1)])
    assert share.factors().tolist() == [1.0]


def test_an_overflow_does_not_count():
    share = GradientShare("mimic", levels=1, iterations=1)
    share.observe(0, [torch.ones(1)], [torch.full((1,), torch.inf)])
    assert share.measures(1) and share.factors().tolist() == [0.0]


def test_a_student_without_own_losses_at_the_tap_is_told_to_give_a_weight():
    model = shared(SHARE=0.5)
    model.run_student = lambda student, given: {"loss": (student(given)["loss_score"].detach())}
    with pytest.raises(ConfigError, match=r"^KD\.LOSSES\.mimic: a SHARE is of the gradient .* give a WEIGHT"):
        model(batch())


def test_a_student_whose_own_gradient_stays_zero_is_told_so_in_the_end():
    share = GradientShare("mimic", levels=1, iterations=1)
    for iteration in range(LARGEST_GAP - 1):
        share.observe(iteration, [torch.zeros(1)], [torch.ones(1)])
    with pytest.raises(ConfigError, match=r"they send none; give a WEIGHT \(all of them were 0 in 100 batches\)"):
        share.observe(LARGEST_GAP, [torch.zeros(1)], [torch.ones(1)])


def test_the_students_gradient_of_its_own_losses_is_untouched_by_the_measurement():
    model = shared(SHARE=1e-12)
    step(model)
    plain = distiller({"mimic": PLAIN | {"WEIGHT": 0}}, tap="fpn=backbone:p4")
    step(plain)
    for a, b in zip(model.student.parameters(), plain.student.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_resumed_within_or_behind_the_measurement_it_goes_on_alike():
    for before, start in ((1, 1), (3, 1), (3, 40), (4, 41)):
        model = shared(SHARE=0.5)
        step(model)
        model.iteration = start
        for seed in range(1, before):
            step(model, seed)
        other = shared(SHARE=0.5)
        other.load_state_dict(copy.deepcopy(model.state_dict()))
        other.iteration = model.iteration
        for seed in range(before, 6):
            step(model, seed), step(other, seed)
        for a, b in zip(model.parameters(), other.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
        assert torch.equal(model.shares["mimic"].factors(), other.shares["mimic"].factors())


class Counted(TorchDispatchMode):
    """Counts operations on tensors of one size, and reads of the host."""

    def __init__(self, numel: int):
        super().__init__()
        self.numel, self.large, self.reads = numel, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        self.reads += func is torch.ops.aten._local_scalar_dense.default
        self.large += isinstance(found, Tensor) and found.numel() == self.numel and "view" not in str(func)
        return found


def test_behind_the_measurement_a_step_costs_one_operation_a_map_and_no_read_of_the_host():
    def operations(block: dict) -> Counted:
        model = shared(**block)
        for seed in range(7):
            step(model, seed)
        numel = model.student_features(batch())[1]["fpn"][0].numel()
        with Counted(numel) as counted:
            step(model, 7)
        return counted

    share, weight = operations({"SHARE": 0.5}), operations({"WEIGHT": 1.0})
    assert (share.reads, weight.reads) == (0, 0)
    assert share.large - weight.large == 1


def test_gradients_that_stay_nan_are_told_in_one_line():
    share = GradientShare("mimic", levels=1, iterations=1)
    share.observe(0, [torch.ones(1)], [torch.ones(1)])
    for iteration in range(1, LARGEST_GAP):
        share.observe(iteration, [torch.ones(1)], [torch.full((1,), torch.nan)])
    with pytest.raises(
        NonFiniteLoss, match="^the gradients at its tap were NaN or infinite in 100 batches one after an"
    ):
        share.observe(LARGEST_GAP, [torch.ones(1)], [torch.full((1,), torch.nan)])


def test_gradients_that_overflow_now_and_then_are_left_out():
    share = GradientShare("mimic", levels=1, iterations=1)
    for iteration in range(3 * LARGEST_GAP):
        share.observe(iteration, [torch.ones(1)], [torch.full((1,), torch.inf if iteration % LARGEST_GAP else 2.0)])
    assert share.factors().item() == pytest.approx(0.5)


def _observe(rank: int) -> dict[str, torch.Tensor]:
    share = GradientShare("mimic", levels=1, iterations=1)
    share.observe(0, [torch.full((2,), 1.0 + rank)], [torch.full((2,), 3.0 * rank)])
    return dict(share.state_dict())


def test_two_processes_measure_what_one_does(tmp_path):
    one = GradientShare("mimic", levels=1, iterations=1)
    # With all images in one batch the mean loss sends each process's part halved.
    one.observe(0, [torch.tensor([0.5, 0.5, 1, 1])], [torch.tensor([0, 0, 1.5, 1.5])])
    for state in in_two_ranks(_observe, tmp_path):
        assert all(torch.equal(state[name], x) for name, x in one.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("of", [lambda model: model.student, lambda model: model], ids=["student", "distiller"])
def test_what_is_compiled_is_measured_too(of):
    model, plain = shared(SHARE=0.5), shared(SHARE=0.5)
    of(model).compile()
    for seed in range(3):
        step(model, seed), step(plain, seed)
    assert model.stats["share/mimic/p4"] == pytest.approx(plain.stats["share/mimic/p4"].item(), rel=1e-4)
