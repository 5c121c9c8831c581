"""A share in float16, whose smallest number is 6e-8 and whose largest is 65504."""

import pytest
import torch
from torch import Tensor

from kd2.distill import Distiller

from ..helpers.toys import batch, distiller

PLAIN = {"TYPE": "mimic", "REDUCTION": "mean", "CALIBRATE_ITERS": 1}


def shared(own: float = 1.0, raw: float = 1.0) -> Distiller:
    """With the student's own loss and the value of the loss multiplied by a factor."""
    model = distiller({"mimic": PLAIN | {"SHARE": 0.5}}, tap="fpn=backbone:p4")
    run = model.run_student
    model.run_student = lambda student, given: {name: own * x.float() for name, x in run(student, given).items()}
    model.losses["mimic"].register_forward_hook(lambda _module, _inputs, value: raw * value)
    return model


def half(model: Distiller) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.float16):
        return model(batch())


@pytest.mark.parametrize("own", [1.0, 1e-4, 1e-6])
def test_a_small_gradient_of_the_students_own_does_not_vanish_while_it_is_measured(own):
    model, plain = shared(own), shared(own)
    half(model), plain(batch())
    factors = [m.stats["share/mimic/p4"].item() for m in (model, plain)]
    assert factors[0] == pytest.approx(factors[1], rel=0.01)


@pytest.mark.parametrize("raw", [1e-3, 1e3, 1e5])
def test_nor_does_the_size_of_the_loss_matter(raw):
    model, plain = shared(raw=raw), shared()
    half(model), plain(batch())
    factors = [m.stats["share/mimic/p4"].item() for m in (model, plain)]
    assert raw * factors[0] == pytest.approx(factors[1], rel=0.01)


def test_a_large_loss_leaves_the_scale_of_the_gradients_alone():
    """It is scaled to its share before it is rounded to float16: nothing overflows in the student."""
    model = distiller({"mimic": PLAIN | {"SHARE": 0.5}}, tap="fpn=backbone:p4")
    model.losses["mimic"].adapters[0] = torch.nn.Identity()
    model.losses["mimic"].forward = lambda student, teacher, _info: 1e4 * student[0].float().square().sum()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.student.parameters(), lr=0.1)
    scaler.scale(sum(half(model).values())).backward()
    scaler.step(optimizer), scaler.update()
    assert scaler.get_scale() == 2.0**10
