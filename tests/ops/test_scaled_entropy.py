"""The entropy in blocks against its formula."""

import pytest
import torch

from kd2.losses.dense_kd import score_divergences
from kd2.ops import blocks
from kd2.ops.scaled_entropy import scaled_entropy


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_value_gradient_and_distance_are_those_of_the_formula_in_blocks_too(beta, monkeypatch):
    monkeypatch.setitem(blocks._AT_ONCE, "cpu", 24 * 3)  # three cells at once
    draw = torch.Generator().manual_seed(0)
    student, teacher = (4 * torch.randn(2, 12, 7, dtype=torch.float64, generator=draw) for _ in range(2))
    student[0, :3] = teacher[0, :3]
    counted = torch.rand(2, 3, 7, dtype=torch.float64, generator=draw).round()
    student.requires_grad_()
    found, apart = scaled_entropy(student, teacher, counted, beta, anchors=3)
    expected = (score_divergences(student, teacher, beta).unflatten(1, (3, 4)) * counted[:, :, None]).sum()
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes)
    distances = (student.sigmoid() - teacher.sigmoid()).abs().unflatten(1, (3, 4)).amax(2)
    torch.testing.assert_close(apart, distances.detach())
    assert not apart.requires_grad
