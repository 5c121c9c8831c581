"""Relative paths, the package's own configs, the teacher's config."""

from pathlib import Path

import pytest

from kd2.config import load, load_teacher_config, packaged_config, read, taps_of, teacher_blocks
from kd2.distill import ConfigError


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """A folder with the run's config file beside a working folder; returns what writes files below both."""
    for name in ("configs", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def write(name: str, text: str = "") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)

    return write


def run(write, text: str, framework: str = "torchvision"):
    return load(write("configs/run.yaml", f"FRAMEWORK: {framework}\n{text}"))


KEYS = [
    ("torchvision", "MODEL", "WEIGHTS", "MODEL: {WEIGHTS: %s}"),
    ("torchvision", "MODEL.BACKBONE", "WEIGHTS", "MODEL: {BACKBONE: {WEIGHTS: %s}}"),
    ("torchvision", "KD.TEACHER", "CONFIG_FILE", "KD: {TEACHER: {CONFIG_FILE: %s}}"),
    ("torchvision", "KD.TEACHER", "WEIGHTS", "KD: {TEACHER: {WEIGHTS: %s}}"),
    ("timm", "KD.VIEWS", "CACHE", "KD: {VIEWS: {CACHE: %s}}"),
]


def value(cfg, node: str, key: str) -> str:
    for name in node.split("."):
        cfg = cfg[name]
    return cfg[key]


@pytest.mark.parametrize(("framework", "node", "key", "text"), KEYS)
def test_a_path_is_found_beside_the_config(folders, framework, node, key, text):
    path = folders("configs/some/file")
    assert value(run(folders, text % "some/file", framework), node, key) == path


@pytest.mark.parametrize(("framework", "node", "key", "text"), KEYS)
def test_a_path_is_found_in_the_working_folder(folders, framework, node, key, text):
    path = folders("work/some/file")
    assert value(run(folders, text % "some/file", framework), node, key) == path


def test_beside_the_config_comes_first(folders):
    path, _ = folders("configs/a.pth"), folders("work/a.pth")
    assert path == run(folders, "MODEL: {WEIGHTS: a.pth}").MODEL.WEIGHTS


def test_further_teachers_are_found_too(folders):
    path = folders("configs/teacher.yaml")
    cfg = run(folders, "KD: {TEACHERS: [{CONFIG_FILE: teacher.yaml}]}", "timm")
    assert [{"CONFIG_FILE": path, "WEIGHTS": "", "OPTS": []}] == cfg.KD.TEACHERS


@pytest.mark.parametrize(
    "name", ["nowhere.pth", "https://a.b/c.pth", "detectron2://a.pkl", "COCO-Detection/x.yaml", ""]
)
def test_what_is_no_file_stays_as_it_is(folders, name):
    assert name == run(folders, f"MODEL: {{WEIGHTS: '{name}'}}").MODEL.WEIGHTS


def test_imagenet_is_no_file(folders):
    folders("work/IMAGENET")
    assert run(folders, "MODEL: {BACKBONE: {WEIGHTS: IMAGENET}}").MODEL.BACKBONE.WEIGHTS == "IMAGENET"


def test_the_output_folder_starts_at_the_working_folder(folders):
    folders("configs/out/file")
    assert run(folders, "OUTPUT_DIR: out").OUTPUT_DIR == "out"


def test_a_packaged_config_is_read_by_its_name():
    assert read("kd2://torchvision/bccd/imitation.yaml")["OUTPUT_DIR"] == "output/torchvision/bccd/imitation"


def test_a_packaged_config_loads_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = load("kd2://torchvision/bccd/imitation.yaml", ["SEED", "3"])
    assert (cfg.SEED, load_teacher_config(cfg).MODEL.BACKBONE.NAME) == (3, "resnet18")


def test_a_packaged_config_is_a_base_and_a_teacher(folders):
    text = "_BASE_: kd2://torchvision/bccd/imitation.yaml\nKD: {TEACHER: {CONFIG_FILE: 'kd2://torchvision/bccd/teacher.yaml'}}"
    cfg = run(folders, text)
    assert (
        packaged_config("kd2://torchvision/bccd/teacher.yaml"),
        32,
    ) == (cfg.KD.TEACHER.CONFIG_FILE, cfg.MODEL.FPN.OUT_CHANNELS)


def test_a_bare_path_is_not_looked_for_in_the_package(folders):
    with pytest.raises(ConfigError, match="No such file"):
        load("torchvision/bccd/imitation.yaml")


@pytest.mark.parametrize(
    "name", ["../setup.py", "bccd/../../setup.py", "bccd/imitatio.yaml", "/etc/passwd", "", "README.md"]
)
def test_a_name_leads_to_no_file_outside_the_packages_configs(name):
    with pytest.raises(ConfigError, match=f"^kd2://{name}: the package has no such config; "):
        packaged_config(f"kd2://{name}")


def test_near_names_of_packaged_configs_are_given():
    with pytest.raises(ConfigError, match=r"did you mean .*bccd/imitation.yaml"):
        packaged_config("kd2://bccd/imitatio.yaml")


TEACHER = "FRAMEWORK: torchvision\nMODEL: {FPN: {OUT_CHANNELS: 64}, WEIGHTS: own.pth}\n"


def test_a_teachers_paths_are_relative_to_its_own_config(folders):
    path = folders("teachers/own.pth")
    folders("teachers/t.yaml", TEACHER)
    cfg = run(folders, "KD: {TEACHER: {CONFIG_FILE: ../teachers/t.yaml}}")
    assert path == load_teacher_config(cfg).MODEL.WEIGHTS


def test_a_teachers_options_override_its_file(folders):
    folders("configs/t.yaml", TEACHER)
    cfg = run(folders, "KD: {TEACHER: {CONFIG_FILE: t.yaml, OPTS: [MODEL.FPN.OUT_CHANNELS, 32]}}")
    assert load_teacher_config(cfg).MODEL.FPN.OUT_CHANNELS == 32


def test_what_a_teacher_once_learned_from_is_left_out(folders):
    folders("configs/t.yaml", TEACHER + "KD: {LOSSES: {a_loss_of_my_own: {}}, TEACHER: {CONFIG_FILE: gone.yaml}}")
    own = load_teacher_config(run(folders, "KD: {TEACHER: {CONFIG_FILE: t.yaml}}"))
    assert (dict(own.KD.LOSSES), own.KD.TEACHER.CONFIG_FILE) == ({}, "")


def test_the_config_that_a_run_leaves_serves_as_a_teachers(folders):
    cfg = run(folders, "KD: {LOSSES: {mgd: {}}, TEACHER: {CONFIG_FILE: gone.yaml}}\nMODEL: {FPN: {OUT_CHANNELS: 64}}")
    folders("work/output/config.yaml", cfg.dump())
    other = run(folders, "KD: {TEACHER: {CONFIG_FILE: output/config.yaml}}")
    assert load_teacher_config(other).MODEL.FPN.OUT_CHANNELS == 64


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("''", "KD.TEACHER.CONFIG_FILE is empty, but KD.LOSSES has losses that need a teacher"),
        ("gone.yaml", "KD.TEACHER.CONFIG_FILE: 'gone.yaml' is no file beside the config or in the working folder"),
        ("t.yaml", "KD.TEACHER.CONFIG_FILE: FRAMEWORK in .*t.yaml is not torchvision, the student's"),
    ],
)
def test_a_teacher_without_a_fitting_config_is_refused(folders, name, text):
    folders("configs/t.yaml", "FRAMEWORK: timm")
    cfg = run(folders, f"KD: {{TEACHER: {{CONFIG_FILE: {name}}}}}")
    with pytest.raises(ConfigError, match=f"^{text}"):
        load_teacher_config(cfg)


def test_teachers_are_called_by_their_nodes(folders):
    folders("configs/a.yaml", "FRAMEWORK: timm\nMODEL: {NAME: resnet34}")
    cfg = run(folders, "KD: {TEACHERS: [{CONFIG_FILE: a.yaml}]}", "timm")
    assert list(teacher_blocks(cfg)) == ["KD.TEACHER", "KD.TEACHERS[0]"]
    assert load_teacher_config(cfg, "KD.TEACHERS[0]").MODEL.NAME == "resnet34"


def test_taps_serve_both_sides(folders):
    cfg = run(folders, "KD: {TAPS: ['a=x']}")
    assert taps_of(cfg, "STUDENT") == taps_of(cfg, "TEACHER") == (["a=x"], "KD.TAPS")


def test_taps_of_one_side_take_the_place_of_the_common_ones(folders):
    cfg = run(folders, "KD: {TAPS: ['a=x'], STUDENT: {TAPS: ['a=y']}}")
    assert taps_of(cfg, "STUDENT") == (["a=y"], "KD.STUDENT.TAPS")
    assert taps_of(cfg, "TEACHER") == (["a=x"], "KD.TAPS")


def test_the_folder_of_packaged_configs_is_the_checkouts():
    assert Path(packaged_config("kd2://coco/fgd_imitation.yaml")).parts[-3:] == (
        "configs",
        "coco",
        "fgd_imitation.yaml",
    )
