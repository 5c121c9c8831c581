"""The config of the README, and its torchvision twin, from the command line to COCO AP, on files of COCO's layout.

Only data and weights are drawn: they lie where the published ones would, the zoo's teacher in one file for both.
Two iterations of one image.
"""

import importlib.util
import math
import re
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("pycocotools", reason="needs pycocotools")

import torch
from torch import Tensor, nn

from .helpers.coco_2017 import write_coco_2017
from .helpers.launch import ROOT, environment

pytestmark = pytest.mark.slow

CONFIGS = {"detectron2": "coco/fgd_imitation", "torchvision": "torchvision/coco/fgd_imitation"}
NEEDS = {"detectron2": "detectron2", "torchvision": "lightning"}


@pytest.fixture(scope="module", params=list(CONFIGS))
def run(request, tmp_path_factory) -> Namespace:
    """The finished command on one road: what it printed, its final checkpoint, and the teacher's weights."""
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"needs {NEEDS[request.param]}")
    from .helpers import published_weights as published

    folder, name = tmp_path_factory.mktemp(request.param), CONFIGS[request.param]
    write_coco_2017(folder / "data")
    teacher = published.write_retinanet(folder / "cache")
    if request.param == "detectron2":
        published.write_msra_resnet(folder / "cache/detectron2/ImageNetPretrained/MSRA/R-50.pkl")
    else:
        published.write_torchvision_resnet(folder / "cache")
    config = ["--config-file", str(ROOT / "configs" / f"{name}.yaml")]
    options = ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "1"]
    places = {"DETECTRON2_DATASETS": "data", "FVCORE_CACHE": "cache", "TORCH_HOME": "cache"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "train_net.py"), *config, *options],
        cwd=folder,
        env=environment() | places | offline(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    final = torch.load(folder / "output" / name / "model_final.pth", weights_only=True)
    return Namespace(road=request.param, printed=done.stdout, final=final, teacher=teacher)


def offline() -> dict[str, str]:
    """A proxy that nobody answers at: a file that is not where it should be is an error, not a download."""
    return dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")


def plain_retinanet(road: str) -> nn.Module:
    """RetinaNet R50 of COCO as the framework itself builds it."""
    if road == "torchvision":
        from torchvision.models.detection import retinanet_resnet50_fpn

        return retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=80)
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    from kd2.engine.detectron2.zoo import config_path

    cfg = get_cfg()
    cfg.merge_from_file(config_path("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "the test"))
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def tensors(content: object) -> Iterator[Tensor]:
    """Every tensor of a checkpoint, however deep it lies."""
    if isinstance(content, Tensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for entry in content.values() if isinstance(content, dict) else content:
            yield from tensors(entry)


def test_the_table_ends_with_coco_ap(run):
    value = float(re.search(r"^\| bbox/AP +\| (\S+) +\|$", run.printed, re.MULTILINE)[1])
    assert not math.isnan(value) and 0 <= value <= 100


def test_both_iterations_were_done(run):
    assert run.final["iteration"] == 1


def test_the_final_checkpoint_fits_a_plain_retinanet(run):
    found = plain_retinanet(run.road).load_state_dict(run.final["model"], strict=False)
    assert found.unexpected_keys == []
    # torchvision's own constructor has batch norms where the checkpoint has frozen ones, which do not count.
    assert [name for name in found.missing_keys if not name.endswith("num_batches_tracked")] == []


def test_the_final_checkpoint_holds_nothing_of_the_teacher(run):
    drawn = [x for x in run.teacher.values() if x.min() != x.max()]  # norms and biases are constants in any network
    assert len(drawn) > 100
    saved = [x.cpu() for x in tensors(run.final)]
    assert not any(x.shape == y.shape and torch.equal(x, y) for x in saved for y in drawn)
