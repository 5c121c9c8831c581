"""The task loss of segmentation."""

import math

import pytest
import torch
from torch.nn import functional as F

from kd2.networks.losses import task_loss


def test_the_mean_over_pixels_that_count():
    scores = torch.tensor([[[[0.0, 5.0]], [[0.0, 1.0]]]])  # two pixels, two classes
    losses = task_loss(scores, None, torch.tensor([[[1, 255]]]))
    assert losses == {"loss_sem_seg": pytest.approx(math.log(2))}


def test_scores_are_enlarged_to_the_labels():
    scores, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 9, 11))
    larger = F.interpolate(scores, (9, 11), mode="bilinear", align_corners=True)
    expected = F.cross_entropy(larger, labels)
    assert torch.allclose(task_loss(scores, None, labels)["loss_sem_seg"], expected)


def test_auxiliary_scores_count_with_their_weight():
    scores, labels = torch.randn(2, 3, 4, 4), torch.randint(0, 3, (2, 4, 4))
    losses = task_loss(scores, scores, labels, 0.4)
    assert torch.allclose(losses["loss_sem_seg_aux"], 0.4 * losses["loss_sem_seg"])


def test_a_batch_without_a_pixel_that_counts_is_an_exact_zero():
    scores = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = task_loss(scores, scores, torch.full((1, 4, 4), 255))
    sum(loss.values()).backward()
    assert [x.item() for x in loss.values()] == [0.0, 0.0] and not scores.grad.any()


def test_half_precision_scores_are_summed_in_float32():
    scores, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    with torch.autocast("cpu", torch.bfloat16):
        loss = task_loss(scores.bfloat16(), None, labels)["loss_sem_seg"]
    expected = F.cross_entropy(scores.bfloat16().float(), labels)
    assert loss.dtype == torch.float32 and torch.allclose(loss, expected)
