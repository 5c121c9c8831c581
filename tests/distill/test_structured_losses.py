"""PI, PA and HO together in the distiller: what is logged, what is trained, and what weight 0 leaves alone."""

import pytest
import torch

from kd2.engine.experiment import DryRun
from kd2.engine.preflight import loss_rows, problems

from ..helpers.segmenter import SHARED, STRUCTURED, batch, distiller, optimizer


def block(**changes) -> dict:
    return {"holistic": STRUCTURED["holistic"] | changes}


def test_the_schedule_multiplies_both_parts():
    once, twice = (distiller(block(WEIGHT=weight))(batch(0)) for weight in (0.1, 0.2))
    for part in ("student", "critic"):
        torch.testing.assert_close(2 * once[f"loss_holistic_{part}"], twice[f"loss_holistic_{part}"])


def test_a_share_scales_the_students_part_alone():
    """The critic learns as with a weight of 1; the map of the student gets the share of its own gradient."""
    model, plain = (distiller(blocks) for blocks in ({"holistic": SHARED["holistic"]}, block(WEIGHT=1.0)))
    given = batch(0)
    own, maps = model.student_features(given)
    found = model.distillation_losses(
        own, maps, model.teacher_features(given), model.placed_batch_info(given), {"holistic": 0.5}
    )
    sent = [torch.autograd.grad(sum(x.values()), maps["score"], retain_graph=True)[0].norm() for x in (own, found)]
    assert (sent[1] / sent[0]).item() == pytest.approx(0.5, rel=1e-4)
    sum(found.values()).backward()
    sum(plain(given).values()).backward()
    for a, b in zip(model.losses.parameters(), plain.losses.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_the_stats_stand_beside_the_losses_under_the_name_of_the_loss():
    model = distiller()
    losses = model(batch(0))
    assert set(model.stats) == {"holistic/distance", "holistic/gradient_penalty"}
    assert not set(model.stats) & set(losses)


def test_a_inactive_loss_has_no_stats():
    model = distiller(STRUCTURED | block(STOP_ITER=1))
    model(batch(0))
    model.iteration = 1
    model(batch(1))
    assert model.stats == {}


def test_weight_0_equals_plain_training():
    weights = []
    for blocks in ({}, block(WEIGHT=0.0)):
        model = distiller(blocks)
        solver = optimizer(model)
        for step in range(3):
            solver.zero_grad()
            sum(model(batch(step)).values()).backward()
            solver.step()
        weights.append(model.student.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_report_before_training_accepts_a_loss_that_trains_the_critic_alone():
    rows = loss_rows(DryRun(distiller(), lambda: batch(0), {}))
    norms = {row[0]: row[5] for row in rows}
    assert norms["loss_holistic_critic"] is None and norms["loss_holistic_student"] > 0
    assert problems(rows) == []
