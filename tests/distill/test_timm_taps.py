"""Tokens and NHWC maps of timm's transformers feed the feature losses."""

import pytest

pytest.importorskip("timm", reason="the transformers of this test are timm's")

import timm
import torch
from torch import nn

from kd2.distill import BatchInfo, Probe, probed
from kd2.losses.blocks import build_losses

SIZE = (64, 64)
FEATURE_TERMS = {
    "mgd": {"RATIO": 0.5},
    "fgd": {},
    "tat": {"ANCHOR_WEIGHT": 0.5, "ANCHOR_SIZE": [2, 2]},
    "mimic": {},
    "hint": {},
}


def vit(width: int) -> nn.Module:
    """A vision transformer with patches of 8 pixels: 64 tokens behind a class token."""
    return timm.create_model("vit_tiny_patch16_224", img_size=64, patch_size=8, embed_dim=width, depth=2, num_heads=2)


def swin(width: int) -> nn.Module:
    """A Swin transformer with maps (N, 16, 16, width) and (N, 8, 8, 2 * width)."""
    options = {"img_size": 64, "embed_dim": width, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    return timm.create_model("swin_tiny_patch4_window7_224", **options)


# Model, tap, sizes of the tapped maps.
CASES = {
    "tokens": (vit, ["x=blocks.1@tokens+1"], [(8, 8)]),
    "tokens with a grid": (vit, ["x=norm@tokens+1/8x8"], [(8, 8)]),
    "nhwc": (swin, ["x=layers.0@nhwc"], [(16, 16)]),
}


def maps_of(make, taps: list[str], width: int):
    """The tapped maps of two images, and what the probe saw."""
    torch.manual_seed(width)
    model = make(width)
    found = probed(model, taps, Probe(lambda: model(torch.zeros(1, 3, *SIZE)), SIZE), "KD.STUDENT.TAPS")
    with found.capture() as maps:
        model(torch.randn(2, 3, *SIZE))
    return maps["x"], found.specs


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FEATURE_TERMS)
def test_a_loss_learns_from_a_wider_transformer(name, case):
    make, taps, sizes = CASES[case]
    student, specs = maps_of(make, taps, 16)
    teacher, teacher_specs = maps_of(make, taps, 24)
    assert [spec.size for spec in specs["x"]] == sizes
    losses, _ = build_losses({name: FEATURE_TERMS[name] | {"TAP": "x"}}, specs, teacher_specs)
    batch_info = BatchInfo([SIZE] * 2, SIZE, [torch.tensor([[4.0, 8, 40, 30]])] * 2)
    parts = losses[name](student, [x.detach() for x in teacher], batch_info)
    loss = sum(parts.values()) if isinstance(parts, dict) else parts
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert [key for key, p in losses[name].named_parameters() if p.grad is None] == []


def test_a_map_of_tokens_is_the_map_of_its_cells():
    """Token 1 + 8 r + c is the cell in row r and column c."""
    model = vit(16)
    taps = probed(model, ["x=norm@tokens+1"], Probe(lambda: model(torch.zeros(1, 3, *SIZE)), SIZE), "KD.STUDENT.TAPS")
    image = torch.randn(1, 3, *SIZE)
    with taps.capture() as maps:
        tokens = model.forward_features(image)
    assert torch.equal(maps["x"][0][0, :, 2, 5], tokens[0, 1 + 8 * 2 + 5])
