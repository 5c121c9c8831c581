"""When losses count: schedules, losses that rest, and the end of the teacher."""

import copy
import gc
import weakref

import pytest
import torch

from ..helpers.toys import IMITATION, batch, distiller, train, unweighted


@pytest.mark.parametrize(
    "blocks",
    [{}, *({"imitation": IMITATION | more} for more in ({"WEIGHT": 0.0}, {"SHARE": 0.0}, {"START_ITER": 1000}))],
    ids=["no losses", "weight 0", "share 0", "not begun"],
)
def test_without_an_active_loss_training_is_plain_bit_for_bit(blocks):
    model = distiller(blocks)
    plain = copy.deepcopy(model.student)
    assert all(torch.equal(a, b) for a, b in zip(train(plain, 20), train(model, 20), strict=True))
    expected, found = plain.state_dict(), model.student.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_an_active_loss_changes_training():
    model = distiller({"imitation": IMITATION})
    plain = copy.deepcopy(model.student)
    train(plain, 3), train(model, 3)
    assert not torch.equal(plain.backbone.stem[0].weight, model.student.backbone.stem[0].weight)


def test_a_loss_counts_between_start_and_stop_and_climbs_on_a_ramp():
    model = distiller(
        {"imitation": IMITATION | {"WEIGHT": 4.0, "START_ITER": 2, "RAMP_ITERS": 1, "STOP_ITER": 4}, "b": IMITATION}
    )
    raw, factors = unweighted(model, batch())["loss_imitation"], []
    for model.iteration in range(5):
        factors.append((model(batch())["loss_imitation"] / raw).item())
    assert factors == pytest.approx([0, 0, 2, 4, 0])


@pytest.mark.parametrize("other", [{}, {"b": IMITATION}], ids=["alone", "beside an active loss"])
def test_a_inactive_loss_gives_an_exact_zero_that_reaches_its_parameters(other):
    model = distiller({"imitation": IMITATION | {"START_ITER": 5}} | other)
    loss = model(batch())["loss_imitation"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.losses["imitation"].parameters())


def test_while_every_loss_is_inactive_the_teacher_does_not_run():
    model = distiller({"imitation": IMITATION | {"START_ITER": 5}})
    model(batch())
    assert not hasattr(model.teacher.model, "saw_gradients")


def test_the_teacher_waits_for_losses_that_have_not_begun():
    model = distiller({"imitation": IMITATION | {"START_ITER": 5}})
    model(batch())
    model.iteration = 5
    assert model(batch())["loss_imitation"] > 0


def test_memory_of_the_teacher_is_freed_when_the_last_loss_is_over():
    model = distiller({"a": IMITATION | {"STOP_ITER": 2}, "b": IMITATION | {"STOP_ITER": 3}})
    alive = weakref.ref(model.teacher.model.backbone)
    seen = []
    for model.iteration in range(4):
        model(batch())
        gc.collect()
        seen.append(alive() is not None)
    assert seen == [True, True, True, False]
