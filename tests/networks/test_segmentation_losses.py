"""The task loss of segmentation networks."""

import pytest
import torch
import torch.nn.functional as F

from kd2.networks.losses import deeply_supervised, enlarged_cross_entropy

SCORES = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(5, (2, 13, 21), generator=torch.Generator().manual_seed(1))


def test_the_scores_are_enlarged_to_the_labels_with_corners_aligned():
    enlarged = F.interpolate(SCORES, (13, 21), mode="bilinear", align_corners=True)
    torch.testing.assert_close(enlarged_cross_entropy(SCORES, LABELS), F.cross_entropy(enlarged, LABELS))


@pytest.mark.parametrize("ignore_label", [255, -1])
def test_the_mean_is_over_pixels_with_a_label(ignore_label):
    labels = LABELS.clone()
    labels[1] = ignore_label
    torch.testing.assert_close(
        enlarged_cross_entropy(SCORES, labels, ignore_label), enlarged_cross_entropy(SCORES[:1], LABELS[:1])
    )


def test_without_any_label_it_is_an_exact_zero_with_a_graph():
    scores = SCORES.clone().requires_grad_()
    loss = enlarged_cross_entropy(scores, torch.full_like(LABELS, 255))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(scores.grad, torch.zeros_like(scores))


def test_the_auxiliary_head_counts_with_its_weight():
    expected = enlarged_cross_entropy(SCORES, LABELS) + 0.4 * enlarged_cross_entropy(-SCORES, LABELS)
    torch.testing.assert_close(deeply_supervised(SCORES, -SCORES, LABELS), expected)


def test_it_is_computed_in_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = enlarged_cross_entropy(SCORES.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, enlarged_cross_entropy(SCORES, LABELS), rtol=0.01, atol=0)
