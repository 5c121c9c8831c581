"""Names of a ResNet's tensors in the files of Detectron2 and Caffe2, as torchvision has them."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

# Detectron2 -> torchvision; the norm of a convolution stands before the convolution itself.
_DETECTRON2 = (
    (r"^stem\.conv1\.norm\.", "bn1."),
    (r"^stem\.conv1\.", "conv1."),
    (r"\.shortcut\.norm\.", ".downsample.1."),
    (r"\.shortcut\.", ".downsample.0."),
    (r"\.conv(\d)\.norm\.", r".bn\1."),
)
# Caffe2 -> Detectron2.
_CAFFE2 = (
    (r"^res_conv1_bn_", "stem.conv1.norm."),
    (r"^conv1_", "stem.conv1."),
    (r"^(res\d)_(\d+)_branch1_bn_", r"\1.\2.shortcut.norm."),
    (r"^(res\d)_(\d+)_branch1_", r"\1.\2.shortcut."),
    (r"^(res\d)_(\d+)_branch2([abc])_bn_", r"\1.\2.conv\3.norm."),
    (r"^(res\d)_(\d+)_branch2([abc])_", r"\1.\2.conv\3."),
    (r"\.conva\.", ".conv1."),
    (r"\.convb\.", ".conv2."),
    (r"\.convc\.", ".conv3."),
    (r"\.(s|gamma|w)$", ".weight"),
    (r"\.(b|beta)$", ".bias"),
    (r"\.(rm|running_mean)$", ".running_mean"),
    (r"\.(riv|running_var)$", ".running_var"),
)


def body_name(name: str) -> str:
    """torchvision's name of a tensor of Detectron2's ResNet, both without a prefix: ``res2.0.conv1.norm.bias`` is
    ``layer1.0.bn1.bias``."""
    name = re.sub(r"^res(\d)\.", lambda stage: f"layer{int(stage[1]) - 1}.", name)
    return renamed(name, _DETECTRON2)


def renamed(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """A name after every rule (pattern, replacement) in turn."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def body_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a ResNet alone under torchvision's names; files that have them already stay as they are.

    Caffe2's files (``R-50.pkl``) hold norms whose statistics are folded into weight and bias: mean 0 and variance 1
    are added. The classifier and the stem's bias, which is zero, are left out of files that are converted.
    """
    if any(name.startswith("res2_0_") for name in state):
        state = {renamed(k, _CAFFE2): v for k, v in state.items() if not k.startswith("fc") and k != "conv1_b"}
    elif not any(name.startswith("res2.0.") for name in state):
        return dict(state)
    found = {body_name(name): value for name, value in state.items() if re.match(r"stem\.|res\d\.", name)}
    return found | _statistics(found)


def _statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Mean 0 and variance 1 of the norms in ``state`` that have none."""
    missing = {}
    for name, value in state.items():
        norm = re.fullmatch(r"(.*(?:bn\d|downsample\.1))\.weight", name)
        if norm and f"{norm[1]}.running_mean" not in state:
            missing[f"{norm[1]}.running_mean"] = torch.zeros_like(value)
            missing[f"{norm[1]}.running_var"] = torch.ones_like(value)
    return missing
