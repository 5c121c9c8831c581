"""Files of drawn weights at the places where those that Detectron2's zoo and torchvision publish are kept."""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from . import zoo_files

# Caffe2's names of the parts of Detectron2's ResNet.
_CAFFE2 = {
    r"stem\.conv1\.norm": "res_conv1_bn",
    r"stem\.conv1": "conv1",
    r"shortcut\.norm": "branch1_bn",
    r"shortcut": "branch1",
    **{rf"(?<=\d\.)conv{i}\.norm": f"branch2{letter}_bn" for i, letter in enumerate("abc", 1)},
    **{rf"(?<=\d\.)conv{i}": f"branch2{letter}" for i, letter in enumerate("abc", 1)},
    r"bn[._]weight": "bn_s",
    r"bn[._]bias": "bn_b",
    r"weight$": "w",
}


def write_retinanet(cache: Path) -> dict[str, Tensor]:
    """The zoo's RetinaNet R101, where $FVCORE_CACHE keeps what was downloaded; returns its weights."""
    state = zoo_files.detector("retinanet", "R_101")
    zoo_files.write(state, cache / "detectron2" / zoo_files.RETINANET / "190397697" / "model_final_971ab9.pkl")
    return state


def write_msra_resnet(path: Path) -> None:
    """MSRA's ImageNet ResNet-50 as ``R-50.pkl``: statistics folded into the norms, Caffe2's names, texts of latin1."""
    state = dict(zoo_files.resnet("R_50", torch.Generator().manual_seed(1)))
    content = {}
    for name, value in state.items():
        if name.endswith(("running_mean", "running_var")):
            continue
        norm = name.rpartition(".")[0]
        if ".norm." in name:
            scale = state[f"{norm}.weight"] / (state[f"{norm}.running_var"] + 1e-5).sqrt()
            value = scale if name.endswith("weight") else value - state[f"{norm}.running_mean"] * scale
        content[_caffe2_name(name)] = value.numpy()
    # The biases of the stem and the classifier are in the published file, too.
    content |= {"conv1_b": torch.zeros(64).numpy(), "fc1000_w": torch.zeros(1000, 2048).numpy()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))


def write_torchvision_resnet(home: Path) -> None:
    """torchvision's ImageNet ResNet-50 where $TORCH_HOME keeps it."""
    from torchvision.models import ResNet50_Weights, resnet50

    state = resnet50().state_dict()
    for name, value in state.items():
        if name.endswith("bn3.weight"):  # small, as trained networks have it
            value.fill_(0.5)
    body = home / "hub" / "checkpoints" / Path(ResNet50_Weights.DEFAULT.url).name
    body.parent.mkdir(parents=True)
    torch.save(state, body)


def _caffe2_name(name: str) -> str:
    for ours, theirs in _CAFFE2.items():
        name = re.sub(ours, theirs, name)
    return name.replace(".", "_")
