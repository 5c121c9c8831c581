"""Every family of Detectron2's models with every loss: docs/detectors.md has the table that these tests make."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import json
import re
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.modeling import build_model
from detectron2.structures import Instances

from kd2.engine.detectron2 import add_d2_config
from kd2.engine.detectron2.data import eval_loader

from ...helpers.d2_cells import LOSSES, cell, header, refusals, row
from ...helpers.d2_families import FAMILIES, drawn_families, family_config
from ...helpers.d2_tiny import load_config, student_of, train

DOCS = Path(__file__).parents[3] / "docs" / "detectors.md"
QUICK = ["FCOS", "PointRend", "Panoptic-DeepLab"]
some_families = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with drawn_families(tmp_path_factory.mktemp("drawn")) as folder:
        yield folder


def documented(family: str) -> dict[str, str]:
    """The row of a family in the table: loss -> cell."""
    (line,) = (x for x in DOCS.read_text().splitlines() if x.startswith(f"| {family} |"))
    return dict(zip(LOSSES, line.strip("| ").split(" | ")[1:], strict=True))


def test_the_table_has_every_family_and_every_loss():
    text = DOCS.read_text()
    assert header() in text
    table = text.split(header())[1].split("\n\n")[0].strip().splitlines()
    assert [line.split(" | ")[0].strip("| ") for line in table] == list(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_each_cell_is_what_two_iterations_and_an_evaluation_found(drawn, tmp_path, family):
    cells = {loss: cell(tmp_path / loss, drawn, family, loss) for loss in LOSSES}
    text = DOCS.read_text()
    for line in [row(family, cells), *refusals(cells)]:
        assert line in text, f"docs/detectors.md lacks the line\n{line}"


@pytest.mark.parametrize(
    "family, loss",
    [
        ("RetinaNet", "imitation"),
        ("FCOS", "fgd"),
        ("Cascade R-CNN", "mgd"),
        ("Panoptic FPN", "pixelwise"),
        ("MViTv2", "pkd"),
        ("DeepLabV3+", "holistic"),
        ("Swin", "dkd"),
    ],
)
def test_some_cells_hold(drawn, tmp_path, family, loss):
    found = cell(tmp_path, drawn, family, loss)
    assert documented(family)[loss] == (found if " " not in found else "no")
    assert all(line in DOCS.read_text() for line in refusals({loss: found}))


@pytest.mark.parametrize(
    "teacher, student, loss",
    [
        ("Cascade R-CNN", "Faster R-CNN", "fgd"),
        ("ViTDet", "Faster R-CNN", "mgd"),
        ("RetinaNet", "FCOS", "pkd"),
        pytest.param("Swin", "Mask R-CNN", "mimic", marks=pytest.mark.slow),
        pytest.param("FCOS", "RetinaNet", "mgd", marks=pytest.mark.slow),
        pytest.param("Panoptic FPN", "Faster R-CNN", "pkd", marks=pytest.mark.slow),
        pytest.param("PointRend", "Keypoint R-CNN", "fgd", marks=pytest.mark.slow),
    ],
)
def test_families_teach_each_other_on_shared_levels(drawn, tmp_path, teacher, student, loss):
    assert cell(tmp_path, drawn, student, loss, teacher=teacher) == "fpn"


@pytest.mark.parametrize("family", some_families)
def test_every_family_trains_in_bf16_on_the_cpu(drawn, tmp_path, family):
    mixed = {"AMP": {"ENABLED": True, "PRECISION": "bf16"}}
    train(family_config(tmp_path, drawn, family, "mimic", SOLVER=mixed), allow_code=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.json").read_text().splitlines()]
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert losses and all(0 < loss < float("inf") for loss in losses)


def plain(folder: Path) -> torch.nn.Module:
    """The student as plain Detectron2 builds it from ``student.yaml``, with its weights."""
    path = str(folder / "student.yaml")
    if "_target_" in Path(path).read_text():
        student = LazyConfig.load(path)
        model, source = instantiate(student.model), student.train.init_checkpoint
    else:
        cfg = add_d2_config(get_cfg())  # its keys for timm's backbones, and those of Detectron2's projects
        cfg.merge_from_file(path)
        model, source = build_model(cfg), cfg.MODEL.WEIGHTS
    state = torch.load(source, weights_only=True)["model"]
    assert state.keys() == model.state_dict().keys()
    DetectionCheckpointer(model).load(source)
    return model.eval()


def tensors(found: object) -> list[torch.Tensor]:
    """All tensors of what a model returns, in order."""
    if isinstance(found, Instances):
        found = found.get_fields()
    if isinstance(found, dict):
        return [x for name in sorted(found) for x in tensors(found[name])]
    if isinstance(found, (list, tuple)):
        return [x for part in found for x in tensors(part)]
    found = getattr(found, "tensor", found)
    return [found] if isinstance(found, torch.Tensor) else []


@pytest.mark.parametrize("family", some_families)
def test_the_students_file_is_one_of_plain_detectron2(drawn, tmp_path, family):
    config = family_config(tmp_path, drawn, family, "mimic")
    scores = train(config, "SOLVER.MAX_ITER", "1", allow_code=True)
    assert scores
    folder, cfg = tmp_path / "out", load_config(config)
    found, own = plain(folder), student_of(cfg)
    state = torch.load(folder / "model_final.pth", weights_only=True)["model"]
    own.load_state_dict(state)
    batch = next(iter(eval_loader(cfg, cfg.DATASETS.TEST[0])))
    with torch.no_grad():
        ours, theirs = tensors(own.eval()(batch)), tensors(found(batch))
    assert ours and len(ours) == len(theirs) and all(torch.equal(a, b) for a, b in zip(ours, theirs))
    teacher = torch.load(tmp_path / "teacher.pth", weights_only=True)["model"]
    drawn_values = [name for name, x in teacher.items() if x.is_floating_point() and x.unique().numel() > 2]
    assert not [n for n in drawn_values if torch.equal(state[n], teacher[n]) and not _constant(n)]


def _constant(name: str) -> bool:
    """Whether a tensor is no weight but the same for every seed: anchors and normalization of pixels."""
    return bool(re.search("pixel_|cell_anchors|relative_position_index", name))
