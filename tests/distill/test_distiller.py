"""The distiller: what it returns, what it leaves alone, and when its losses count."""

import copy
import pickle

import pytest
import torch
from ..helpers.toys import IMITATION, ToyDistiller, batch, distiller, train
from torch import nn

from kd2.distill import Distiller, Schedule, LossConfig

WEIGHTED = {"imitation": IMITATION | {"WEIGHT": 0.5}}


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    return sum(losses.values())


def gradients(model: nn.Module) -> dict[str, torch.Tensor | None]:
    return {name: p.grad for name, p in model.named_parameters()}


# What it returns.


def test_in_eval_mode_it_is_the_student():
    model = distiller(WEIGHTED).eval()
    found, expected = model(batch()), model.student(batch())
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_losses_are_the_students_own_and_one_a_loss():
    assert list(distiller({"a": IMITATION, "b": IMITATION})(batch())) == ["loss_score", "loss_a", "loss_b"]


def test_a_loss_is_multiplied_by_its_weight():
    model = distiller(WEIGHTED)
    assert torch.equal(model(batch())["loss_imitation"], 0.5 * model.raw_losses(batch())["loss_imitation"])


def test_raw_losses_ignore_the_schedule():
    late = distiller({"imitation": IMITATION | {"START_ITER": 100}})
    assert late.raw_losses(batch())["loss_imitation"] > 0


def test_named_parts_of_a_loss_become_losses_of_their_own():
    class Parts(nn.Module):
        def forward(self, student, teacher, batch_info):
            return {"near": torch.tensor(1.0), "far": torch.tensor(2.0)}

    model = distiller(WEIGHTED)
    model.losses["pair"], model.uses["pair"] = Parts(), LossConfig("fpn", Schedule(3.0))
    losses = model(batch())
    assert (losses["loss_pair_near"].item(), losses["loss_pair_far"].item()) == (3.0, 6.0)


def test_the_scene_learns_iteration_and_seed():
    class Spy(nn.Module):
        def forward(self, student, teacher, batch_info):
            return torch.tensor([float(batch_info.iteration), float(batch_info.seed)])

    model = distiller(WEIGHTED)
    model.losses["spy"], model.uses["spy"] = Spy(), LossConfig("fpn", Schedule(1.0))
    model.iteration, model.seed = 7, 11
    assert model(batch())["loss_spy"].tolist() == [7.0, 11.0]


@pytest.mark.parametrize("missing", ["teacher_forward", "batch_info"])
def test_a_bridge_without_a_method_is_named(missing):
    class Bare(ToyDistiller):
        pass

    setattr(Bare, missing, getattr(Distiller, missing))
    model = distiller(WEIGHTED)
    model.__class__ = Bare
    with pytest.raises(NotImplementedError, match=f"Bare has losses but no {missing}"):
        model(batch())


def test_images_without_boxes_give_an_exact_zero_and_zero_gradients():
    model = distiller(WEIGHTED)
    losses = model(batch(boxes=False))
    losses["loss_imitation"].backward()
    reached = list(model.losses.parameters()) + list(model.student.backbone.parameters())
    assert losses["loss_imitation"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in reached)


def test_under_bfloat16_autocast_a_loss_is_float32_and_close():
    model = distiller({"imitation": IMITATION, "hint": {"RELU": False}})
    expected = model.raw_losses(batch())
    with torch.autocast("cpu", torch.bfloat16):
        found = model.raw_losses(batch())
    assert {loss.dtype for loss in found.values()} == {torch.float32}
    assert all(torch.isclose(found[name], expected[name], rtol=0.01) for name in expected)


def test_gradients_through_activation_checkpointing_equal_the_plain_ones():
    found = []
    for checkpointed in (False, True):
        model = distiller(WEIGHTED, tap="fpn=backbone.stage.0", checkpointed=checkpointed)
        total(model(batch())).backward()
        found.append(gradients(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


# What it leaves alone.


def test_a_teacher_with_batch_statistics_gives_maps_of_mean_0_and_is_still_frozen():
    model = distiller(WEIGHTED)
    model.teacher.batch_statistics = True
    (_, p4) = model.teacher_features(batch())["fpn"]  # straight behind a batch norm with weight 1 and bias 0
    assert torch.allclose(p4.mean((0, 2, 3)), torch.zeros(6), atol=1e-5)
    assert not any(p.requires_grad for p in model.teacher.model.parameters())


def test_the_teacher_stays_in_eval_mode_whatever_train_says():
    model = distiller(WEIGHTED).train()
    model.teacher.model.train()
    model(batch())
    assert not any(m.training for m in model.teacher.model.modules())


def test_the_teacher_is_frozen():
    assert not any(p.requires_grad for p in distiller(WEIGHTED).teacher.model.parameters())


def test_the_teacher_runs_without_gradients():
    model = distiller(WEIGHTED)
    model(batch())
    assert model.teacher_saw_gradients is False


def test_the_teacher_is_in_no_state_dict_and_no_parameter_list():
    model = distiller(WEIGHTED)
    own = {id(p) for p in model.parameters()}
    assert not any(id(p) in own for p in model.teacher.model.parameters())
    assert {name.split(".")[0] for name in model.state_dict()} == {"student", "losses"}


def test_parameters_and_buffers_of_the_teacher_survive_training_bit_for_bit():
    model = distiller(WEIGHTED)
    before = copy.deepcopy(model.teacher.model.state_dict())
    train(model, 3)
    after = model.teacher.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_moving_or_casting_the_distiller_moves_the_teacher():
    model = distiller(WEIGHTED).double()
    assert {p.dtype for p in model.teacher.model.parameters()} == {torch.float64}


def test_a_deep_copy_shares_the_teacher():
    model = distiller(WEIGHTED)
    assert copy.deepcopy(model).teacher is model.teacher


def test_a_deep_copy_trains_like_the_original():
    model = distiller(WEIGHTED)
    other = copy.deepcopy(model)
    losses, copied = model(batch()), other(batch())
    assert all(torch.equal(losses[name], copied[name]) for name in losses)


def test_a_deep_copy_listens_to_its_own_student():
    model = distiller(WEIGHTED)
    other = copy.deepcopy(model)
    nn.init.zeros_(model.student.backbone.stem[0].weight)
    assert not torch.equal(model(batch())["loss_imitation"], other(batch())["loss_imitation"])


def test_a_pickled_distiller_computes_the_same():
    model = distiller(WEIGHTED)
    other = pickle.loads(pickle.dumps(model))
    assert torch.equal(model(batch())["loss_imitation"], other(batch())["loss_imitation"])
