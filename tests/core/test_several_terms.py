"""Several terms at once: each with its own tap, levels, start, ramp and stop."""

import gc
import weakref

import torch
from toys import batch, distiller, train

# Two levels, the finer one, the coarser one.
TAPS = ["fine=backbone:p3", "coarse=backbone.stage"]
TERMS = {
    "mgd": {"WEIGHT": 2.0, "START": 1, "RAMP": 1, "STOP": 4, "RATIO": 0.5},
    "focus": {"TYPE": "fgd", "TAP": "fine", "WEIGHT": 4.0, "RAMP": 3, "STOP": 3},
    "tat": {"TAP": "coarse", "WEIGHT": 3.0, "START": 2, "STOP": 5},
}
FACTORS = {
    "mgd": [0, 1, 2, 2, 0, 0],
    "focus": [1, 2, 3, 0, 0, 0],
    "tat": [0, 0, 3, 3, 3, 0],
}


class Spy(torch.nn.Module):
    """1 at every iteration: its loss is the factor."""

    def forward(self, student, teacher, scene):
        return torch.ones(())


def test_each_term_follows_its_own_schedule():
    model = distiller(TERMS, *TAPS)
    model.terms = torch.nn.ModuleDict({name: Spy() for name in TERMS})
    found = {name: [] for name in TERMS}
    for model.iteration in range(6):
        losses = model(batch())
        for name in TERMS:
            found[name].append(losses[f"loss_{name}"].item())
    assert found == FACTORS


def test_each_term_reads_its_own_levels():
    model = distiller(TERMS, *TAPS)
    levels = {name: len(term.blocks) for name, term in model.terms.items()}
    assert levels == {"mgd": 2, "focus": 1, "tat": 1}


def test_one_backward_reaches_every_adapter():
    model = distiller(TERMS, *TAPS)
    model.iteration = 2
    sum(model(batch()).values()).backward()
    assert [name for name, p in model.terms.named_parameters() if p.grad is None] == []


def test_the_teacher_is_freed_when_the_last_one_has_stopped():
    model = distiller(TERMS, *TAPS)
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
    model = distiller({name: block | {"START": 0, "RAMP": 0, "STOP": 1} for name, block in TERMS.items()}, *TAPS)
    model(batch())
    model.iteration = 1
    assert len(train(model, 2)) == 2 and model.teacher is None


def test_two_terms_of_one_kind_draw_different_holes():
    model = distiller({"a": {"TYPE": "mgd"}, "b": {"TYPE": "mgd"}})
    model.terms["b"].load_state_dict(model.terms["a"].state_dict())
    losses = model(batch())
    assert losses["loss_a"] != losses["loss_b"]
