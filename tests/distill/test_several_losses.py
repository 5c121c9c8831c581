"""Several losses at once: each with its own tap, levels, start, ramp and stop."""

import gc
import weakref

import torch

from ..helpers.toys import batch, distiller, train

# Two levels, the finer one, the coarser one.
TAPS = ["fine=backbone:p3", "coarse=backbone.stage"]
LOSSES = {
    "mgd": {"WEIGHT": 2.0, "START_ITER": 1, "RAMP_ITERS": 1, "STOP_ITER": 4, "RATIO": 0.5},
    "focus": {"TYPE": "fgd", "TAP": "fine", "WEIGHT": 4.0, "RAMP_ITERS": 3, "STOP_ITER": 3},
    "tat": {"TAP": "coarse", "WEIGHT": 3.0, "START_ITER": 2, "STOP_ITER": 5},
}
FACTORS = {
    "mgd": [0, 1, 2, 2, 0, 0],
    "focus": [1, 2, 3, 0, 0, 0],
    "tat": [0, 0, 3, 3, 3, 0],
}


class Spy(torch.nn.Module):
    """1 at every iteration: its loss is the factor."""

    def forward(self, student, teacher, batch_info):
        return torch.ones(())


def test_each_loss_follows_its_own_schedule():
    model = distiller(LOSSES, *TAPS)
    model.losses = torch.nn.ModuleDict({name: Spy() for name in LOSSES})
    found = {name: [] for name in LOSSES}
    for model.iteration in range(6):
        losses = model(batch())
        for name in LOSSES:
            found[name].append(losses[f"loss_{name}"].item())
    assert found == FACTORS


def test_each_loss_reads_its_own_levels():
    model = distiller(LOSSES, *TAPS)
    levels = {name: len(criterion.adapters) for name, criterion in model.losses.items()}
    assert levels == {"mgd": 2, "focus": 1, "tat": 1}


def test_one_backward_reaches_every_adapter():
    model = distiller(LOSSES, *TAPS)
    model.iteration = 2
    sum(model(batch()).values()).backward()
    assert [name for name, p in model.losses.named_parameters() if p.grad is None] == []


def test_the_teacher_is_freed_when_the_last_one_has_stopped():
    model = distiller(LOSSES, *TAPS)
    alive, runs = weakref.ref(model.teacher.model), []
    model.teacher.model.register_forward_pre_hook(lambda *_: runs.append(model.iteration))
    seen = []
    for model.iteration in range(7):
        sum(model(batch()).values()).backward()
        gc.collect()
        seen.append(alive() is not None)
    assert seen == [True] * 5 + [False] * 2
    assert runs == [0, 1, 2, 3, 4]


def test_afterwards_training_goes_on_with_the_student_alone():
    model = distiller(
        {name: block | {"START_ITER": 0, "RAMP_ITERS": 0, "STOP_ITER": 1} for name, block in LOSSES.items()}, *TAPS
    )
    model(batch())
    model.iteration = 1
    assert len(train(model, 2)) == 2 and model.teacher is None


def test_two_losses_of_one_kind_draw_different_holes():
    model = distiller({"a": {"TYPE": "mgd"}, "b": {"TYPE": "mgd"}})
    model.losses["b"].load_state_dict(model.losses["a"].state_dict())
    losses = model(batch())
    assert losses["loss_a"] != losses["loss_b"]
