"""The distiller: what it returns, what it leaves alone, and when its losses count."""

import copy
import pickle

import pytest
import torch
from torch import nn

from kd2.distill import ConfigError, Distiller, LossConfig, Schedule

from ..helpers.toys import IMITATION, batch, distiller, train, unweighted

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
    assert torch.equal(model(batch())["loss_imitation"], 0.5 * unweighted(model, batch())["loss_imitation"])


def test_raw_losses_ignore_the_schedule():
    late = distiller({"imitation": IMITATION | {"START_ITER": 100}})
    assert unweighted(late, batch())["loss_imitation"] > 0


def test_named_parts_of_a_loss_become_losses_of_their_own():
    class Parts(nn.Module):
        parts = ("near", "far")

        def forward(self, student, teacher, batch_info):
            return {"near": torch.tensor(1.0), "far": torch.tensor(2.0)}

    model = distiller(WEIGHTED)
    model.losses["pair"], model.configs["pair"] = Parts(), LossConfig("fpn", Schedule(3.0))
    losses = model(batch())
    assert (losses["loss_pair_near"].item(), losses["loss_pair_far"].item()) == (3.0, 6.0)


def test_the_batch_info_learns_iteration_and_seed():
    class Spy(nn.Module):
        def forward(self, student, teacher, batch_info):
            return torch.tensor([float(batch_info.iteration), float(batch_info.seed)])

    model = distiller(WEIGHTED)
    model.losses["spy"], model.configs["spy"] = Spy(), LossConfig("fpn", Schedule(1.0))
    model.iteration, model.seed = 7, 11
    assert model(batch())["loss_spy"].tolist() == [7.0, 11.0]


def test_parts_that_a_loss_does_not_announce_are_refused():
    class Parts(nn.Module):
        def forward(self, student, teacher, batch_info):
            return {"near": torch.tensor(1.0)}

    model = distiller(WEIGHTED)
    model.losses["pair"], model.configs["pair"] = Parts(), LossConfig("fpn", Schedule(3.0))
    with pytest.raises(
        ConfigError, match="KD.LOSSES.pair: the loss gave loss_pair_near, its attribute 'parts' announces loss_pair"
    ):
        model(batch())


def test_names_in_the_log_are_the_same_while_a_loss_of_parts_is_inactive():
    class Parts(nn.Module):
        parts = ("near", "far")

        def forward(self, student, teacher, batch_info):
            return {"near": torch.tensor(1.0), "far": torch.tensor(2.0)}

    model = distiller(WEIGHTED)
    model.losses["pair"], model.configs["pair"] = Parts(), LossConfig("fpn", Schedule(3.0, start=1))
    assert (
        sorted(model(batch()))
        == sorted(model(batch()))
        == [
            "loss_imitation",
            "loss_pair_far",
            "loss_pair_near",
            "loss_score",
        ]
    )


def test_a_loss_called_like_one_of_the_students_own_is_refused_when_the_distiller_is_built():
    with pytest.raises(ConfigError, match="loss_score cannot be in the log twice: the student's own loss is called so"):
        distiller({"score": IMITATION})


def test_a_name_of_the_students_that_shows_itself_later_is_refused_too():
    model = Distiller(nn.Identity(), losses={"score": nn.Identity()}, configs={"score": LossConfig("x", Schedule(0.0))})
    model.run_student = lambda student, batch: {"loss_score": torch.zeros(())}
    with pytest.raises(ConfigError, match="loss_score cannot be in the log twice"):
        model.train()(None)


def test_every_pass_in_train_mode_is_an_iteration_unless_the_loop_says_otherwise():
    model = distiller(WEIGHTED)
    model(batch()), model(batch())
    assert model.iteration == 2
    model.eval()(batch())
    assert model.iteration == 2


def test_images_without_boxes_give_an_exact_zero_and_zero_gradients():
    model = distiller(WEIGHTED)
    losses = model(batch(boxes=False))
    losses["loss_imitation"].backward()
    reached = list(model.losses.parameters()) + list(model.student.backbone.parameters())
    assert losses["loss_imitation"].item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in reached)


def test_under_bfloat16_autocast_a_loss_is_float32_and_close():
    model = distiller({"imitation": IMITATION, "hint": {"RELU": False}})
    expected = unweighted(model, batch())
    with torch.autocast("cpu", torch.bfloat16):
        found = unweighted(model, batch())
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
    assert model.teacher.model.saw_gradients is False


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
