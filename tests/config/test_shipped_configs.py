"""Every config below configs/, judged as a text, and their index."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from kd2.config import framework_of, load, load_teacher_config, read, teacher_blocks
from kd2.losses.blocks import active_losses

ROOT = Path(__file__).parents[2] / "configs"
FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.yaml"))
RUNS = [name for name in FILES if not Path(name).name.startswith("Base")]
TEXTS = {name: read(str(ROOT / name)) for name in FILES}
LIGHTNING = [name for name in FILES if name.startswith(("torchvision/", "timm/"))]

every_file = pytest.mark.parametrize("name", FILES)
every_run = pytest.mark.parametrize("name", RUNS)


def framework(name: str) -> str:
    return framework_of(TEXTS[name], name)


def test_there_are_configs_of_every_framework():
    assert {framework(name) for name in RUNS} == {"detectron2", "torchvision", "timm"}


@every_file
def test_a_config_lies_in_the_folder_of_its_framework(name):
    folder = name.split("/")[0]
    assert framework(name) == (folder if folder in ("torchvision", "timm") else "detectron2")


@every_run
def test_the_output_folder_is_called_like_the_file(name):
    own = TEXTS[name].get("OUTPUT_DIR")
    # Networks that are fetched, never trained here.
    assert own == f"output/{name.removesuffix('.yaml')}" or (own is None and "imagenet/teacher" in name)


@every_file
def test_no_config_switches_a_loss_of_its_parent_off(name):
    text = (ROOT / name).read_text()
    bases = re.findall(r"^_BASE_: (.*)$", text, re.M)
    inherited = {
        loss for base in bases for loss in read(str((ROOT / name).parent / base)).get("KD", {}).get("LOSSES", {})
    }
    off = {loss for loss, block in TEXTS[name].get("KD", {}).get("LOSSES", {}).items() if block.get("WEIGHT") == 0}
    assert not inherited & off


@every_file
def test_the_student_is_named_plainly(name):
    assert TEXTS[name].get("MODEL", {}).get("META_ARCHITECTURE") != "Distiller"
    assert "META_ARCHITECTURE" not in TEXTS[name].get("KD", {}).get("STUDENT", {})


@pytest.mark.parametrize("name", [n for n in RUNS if re.search(r"(^|/)(coco|cityscapes|imagenet|flowers102)/", n)])
def test_where_papers_are_followed_losses_have_their_fixed_weight(name):
    """The flagship has a share instead, and its header says so."""
    if not name.endswith("coco/fgd_imitation.yaml"):
        blocks = TEXTS[name].get("KD", {}).get("LOSSES", {})
        assert [loss for loss, block in blocks.items() if "WEIGHT" not in block] == []


@pytest.mark.parametrize("folder", ["bccd", "torchvision/bccd"])
@pytest.mark.parametrize("part", ["F", "G", "D", "ID"])
def test_an_ablation_of_imitation_differs_in_its_losses_and_taps_alone(folder, part):
    def rest(part: str) -> dict[str, Any]:
        cfg = copy.deepcopy(TEXTS[f"{folder}/fgfi_{part}.yaml"])
        del cfg["OUTPUT_DIR"], cfg["KD"]["LOSSES"], cfg["KD"]["TAPS"]
        return cfg

    assert rest(part) == rest("I")


@pytest.mark.parametrize("name", LIGHTNING)
def test_the_config_is_one_that_training_accepts_as_a_text(name):
    assert framework(name) == load(str(ROOT / name)).FRAMEWORK


@pytest.mark.parametrize("name", [name for name in LIGHTNING if name in RUNS])
def test_all_its_teachers_have_configs(name):
    cfg = load(str(ROOT / name))
    if active_losses(cfg.KD.LOSSES):
        assert all(load_teacher_config(cfg, node).FRAMEWORK == cfg.FRAMEWORK for node in teacher_blocks(cfg))


def test_the_index_has_every_config_that_runs_in_one_row():
    rows = re.findall(r"^\| \[([^]]*)\]\(([^)]*)\) \| (\w*) \|.*\|$", (ROOT / "README.md").read_text(), re.M)
    assert sorted(name for name, _, _ in rows) == RUNS
    assert all(name == link and index.lower() == framework(name) for name, link, index in rows)


@every_file
def test_files_that_a_header_names_exist(name):
    text = (ROOT / name).read_text()
    assert all((ROOT / found).is_file() for found in re.findall(r"configs/([\w/.-]+\.yaml)", text))


@pytest.mark.parametrize("document", ["README.md", "docs/results.md", "datasets/README.md", "configs/README.md"])
def test_configs_that_a_document_names_exist(document):
    text = (ROOT.parent / document).read_text().replace("NAME.yaml", "")
    assert all((ROOT / found).is_file() for found in re.findall(r"configs/([\w/.-]+\.yaml)", text))
