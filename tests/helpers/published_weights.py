"""Files of drawn weights in the form, and at the place, of those that Detectron2's zoo and torchvision publish.

The last norm of every residual block is made small, as trained networks have it, so that maps behind a hundred layers
stay in a moderate range; the stem's is made large enough for an untrained head to find something.
"""

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, resnet50

from kd2.config import load, read
from kd2.engine.lightning.detection.models import build_detector

CONFIGS = Path(__file__).parents[2] / "configs"
# Caffe2's names of the parts of Detectron2's ResNet.
_CAFFE2 = {
    r"stem\.conv1\.norm": "res_conv1_bn",
    r"stem\.conv1": "conv1",
    r"shortcut\.norm": "branch1_bn",
    r"shortcut": "branch1",
    **{rf"(?<=\d\.)conv{i}\.norm": f"branch2{letter}_bn" for i, letter in enumerate("abc", 1)},
    **{rf"(?<=\d\.)conv{i}": f"branch2{letter}" for i, letter in enumerate("abc", 1)},
    r"bn[._]weight": "bn_gamma",
    r"bn[._]bias": "bn_beta",
    r"weight$": "w",
}


def write_zoo_files(cache: Path) -> dict[str, Tensor]:
    """MSRA's ImageNet ResNet-50 and the zoo's RetinaNet R101, where $FVCORE_CACHE keeps what was downloaded.

    Returns:
        The weights of the RetinaNet.
    """
    from kd2.engine.detectron2.config import run_config, teacher_config
    from kd2.engine.detectron2.models import build_plain

    config = str(CONFIGS / "coco" / "fgd_imitation.yaml")
    cfg = run_config(read(config, ["MODEL.DEVICE", "cpu"]), config)
    body = _moderate(build_plain(cfg, "student").backbone.bottom_up, "stem.conv1.norm", "conv3.norm", 10.0)
    caffe2 = {_caffe2_name(name): value.numpy() for name, value in body.items()}
    # The biases of the stem and the classifier are in the published file, too.
    caffe2 |= {"conv1_b": torch.zeros(64).numpy(), "fc1000_w": torch.zeros(1000, 2048).numpy()}
    _pickle(caffe2, cache / "detectron2/ImageNetPretrained/MSRA/R-50.pkl")
    teacher = build_plain(teacher_config(cfg), "teacher")
    state = _moderate(teacher, "stem.conv1.norm", "conv3.norm", 10.0)
    content = {"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Model Zoo"}
    _pickle(content, cache / "detectron2/COCO-Detection/retinanet_R_101_FPN_3x/190397697/model_final_971ab9.pkl")
    return state


def write_torchvision_files(home: Path, working_folder: Path) -> dict[str, Tensor]:
    """torchvision's ImageNet ResNet-50 where $TORCH_HOME keeps it, and the teacher's run in ``working_folder``.

    Returns:
        The weights of the teacher, a RetinaNet R101.
    """
    body = home / "hub" / "checkpoints" / Path(ResNet50_Weights.DEFAULT.url).name
    teacher = working_folder / "output/torchvision/coco/teacher_retinanet_r101/model_final.pth"
    for file in (body, teacher):
        file.parent.mkdir(parents=True)
    torch.save(_moderate(resnet50(), "bn1", "bn3", 500.0), body)
    config = str(CONFIGS / "torchvision" / "coco" / "teacher_retinanet_r101.yaml")
    model = build_detector(load(config, ["MODEL.BACKBONE.WEIGHTS", ""]))
    state = _moderate(model, "bn1", "bn3", 500.0)
    torch.save({"model": state}, teacher)
    return state


def _moderate(model: nn.Module, first: str, last: str, gain: float) -> dict[str, Tensor]:
    """The weights of ``model``; ``first`` and ``last`` are the stem's norm and the last one of a residual block."""
    state = model.state_dict()
    for name, value in state.items():
        if name.endswith(f"{last}.weight"):
            value.fill_(0.5)
        elif re.fullmatch(rf"(backbone\.(body|bottom_up)\.)?{re.escape(first)}\.weight", name):
            value.fill_(gain)
    return state


def _caffe2_name(name: str) -> str:
    for ours, theirs in _CAFFE2.items():
        name = re.sub(ours, theirs, name)
    return name.replace(".", "_")


def _pickle(content: dict, path: Path) -> None:
    path.parent.mkdir(parents=True)
    with open(path, "wb") as file:
        pickle.dump(content, file)
