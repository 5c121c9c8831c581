"""What is refused when the text is read: values out of range, keys that nobody reads, losses, taps, teachers."""

from pathlib import Path

import pytest
import yaml

from kd2.config import add_kd_config, load
from kd2.config.keys import KEYS
from kd2.config.keys.detectron2 import CHECKS
from kd2.config.merging import leaves
from kd2.distill import ConfigError
from kd2.distill.values import check_value


@pytest.fixture
def loaded(tmp_path):
    """A config from the text of a file and options."""

    def load_text(text: str, *options: str):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return load(str(path), options)

    return load_text


TORCHVISION = "FRAMEWORK: torchvision"
TIMM = "FRAMEWORK: timm"


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("SEED", "-2", " is -2, expected a whole number in [-1, 4294967295]"),
        ("VERSION", "1", " is 1; choices: 2"),
        ("SOLVER.MAX_ITER", "-1", " is -1, expected a whole number above 0"),
        ("SOLVER.IMS_PER_BATCH", "0", " is 0, expected a whole number above 0"),
        ("SOLVER.CHECKPOINT_PERIOD", "0", " is 0, expected a whole number above 0"),
        ("SOLVER.BASE_LR", "-0.1", " is -0.1, expected a number of 0 or more"),
        ("SOLVER.MOMENTUM", "1.0", " is 1.0, expected a number in [0, 1)"),
        ("SOLVER.WEIGHT_DECAY_BIAS", "-1.0", " is -1.0, expected a number of 0 or more, or None"),
        ("SOLVER.STEPS", "[10, 20.5]", "[1] is 20.5 (float), expected a whole number of 0 or more"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0", " is 0.0, expected a number above 0"),
        ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full", " is 'full'; did you mean full_model"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine", " is 'Cosine'; did you mean WarmupCosineLR"),
        ("SOLVER.AMP.PRECISION", "fp8", " is 'fp8'; did you mean fp16"),
        ("DATALOADER.NUM_WORKERS", "-1", " is -1, expected a whole number of 0 or more"),
        ("DATASETS.TRAIN", "[1]", "[0] is 1 (int), expected text"),
        ("INPUT.FORMAT", "GRB", " is 'GRB'; did you mean"),
        ("INPUT.RANDOM_FLIP", "sideways", " is 'sideways'; choices: horizontal, vertical, none"),
        ("INPUT.MIN_SIZE_TRAIN", "[800.5]", "[0] is 800.5 (float), expected a whole number above 0"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "x", " is 'x'; choices: choice, range"),
        ("INPUT.CROP.TYPE", "relative", " is 'relative'; choices: absolute"),
        ("INPUT.CROP.SIZE", "[512]", " is [512], expected two whole numbers above 0"),
        ("MODEL.DEVICE", "x", " is 'x'; choices: auto, cpu, cuda"),
        ("MODEL.META_ARCHITECTURE", "RetinaNett", " is 'RetinaNett'; did you mean RetinaNet"),
        ("MODEL.RETINANET.NUM_CONVS", "5", " is 5, expected a whole number in [1, 4]"),
        ("MODEL.FPN.NORM", "LN", " is 'LN'; did you mean"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", "[32, 64]", "[0] is 32 (int), expected a list of numbers above 0"),
        ("MODEL.PIXEL_STD", "[1.0, 1.0]", " is [1.0, 1.0], expected a list of 3 numbers above 0"),
        ("KD.INIT_FROM_TEACHER", "body", " is 'body'; choices: '', neck, head, neck+head"),
    ],
)
def test_a_value_that_its_key_does_not_allow_is_refused(loaded, key, value, text):
    with pytest.raises(ConfigError) as error:
        loaded(TORCHVISION, key, value)
    assert str(error.value).startswith(f"{key}{text}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.SIZE", "0"),
        ("INPUT.TEST_SCALE", "0.5"),
        ("MODEL.LABEL_SMOOTHING", "1.0"),
        ("SOLVER.MAX_EPOCHS", "-1.0"),
        ("KD.TASK_WEIGHT", "-0.5"),
        ("KD.VIEWS.MODE", "same"),
        ("KD.VIEWS.AREA", "[0.5]"),
        ("KD.VIEWS.FLIP", "1.5"),
        ("KD.VIEWS.ENSEMBLE", "0"),
        ("TEST.IMS_PER_BATCH", "0"),
    ],
)
def test_a_value_of_a_classifier_that_its_key_does_not_allow_is_refused(loaded, key, value):
    with pytest.raises(ConfigError, match=rf"^{key}(\[0\])? is "):
        loaded(TIMM, key, value)


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("SOLVER.GAMMA", ".nan", " is nan, expected a number of 0 or more, finite"),
        ("MODEL.PIXEL_MEAN", "[.inf, 1, 1]", r"\[0\] is inf, expected a number, finite"),
        ("KD.LOSSES.mgd.WEIGHT", "-.inf", " is -inf, expected finite numbers"),
        ("MODEL.BACKBONE.ARGS.x", "[[.nan]]", r" is \[\[nan\]\], expected finite numbers"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(loaded, key, value, text):
    with pytest.raises(ConfigError, match=f"^{key}{text}$"):
        loaded(f"{TORCHVISION}\n{nested(key, value)}")


def nested(key: str, value: str) -> str:
    """The YAML text of one key."""
    parents = key.split(".")
    return "\n".join(f"{'  ' * depth}{name}:" for depth, name in enumerate(parents)) + f" {value}"


@pytest.mark.parametrize(
    ("architecture", "key", "value"),
    [
        ("RetinaNet", "TEST.WINDOW.SIZE", "[64, 64]"),
        ("RetinaNet", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", "3"),
        ("MaskRCNN", "INPUT.CROP.ENABLED", "True"),
        ("PSPNet", "KD.UNLABELED.SCORE_THRESH", "0.4"),
        ("FCOS", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS", "[[1.0]]"),
        ("PSPNet", "MODEL.RETINANET.NUM_CONVS", "2"),
        ("PSPNet", "MODEL.FPN.NORM", "GN"),
        ("PSPNet", "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS", "[1, 2, 3]"),
        ("DeepLabV3", "MODEL.SEM_SEG_HEAD.DROPOUT", "0.5"),
        ("LRASPP", "MODEL.SEM_SEG_HEAD.AUX_WEIGHT", "0.4"),
        ("ESPNet", "MODEL.BACKBONE.NAME", "resnet18"),
        ("FCN", "MODEL.ESPNET.LEVEL2_BLOCKS", "3"),
        ("SemSegFPN", "TEST.DETECTIONS_PER_IMAGE", "5"),
    ],
)
def test_a_key_that_the_architecture_does_not_read_is_refused(loaded, architecture, key, value):
    with pytest.raises(ConfigError, match=f"^{key} is given, but {architecture} does not read it; only .* do$"):
        loaded(TORCHVISION, "MODEL.META_ARCHITECTURE", architecture, key, value)


def test_a_key_with_its_defaults_value_counts_as_not_given(loaded):
    assert loaded(TORCHVISION, "TEST.WINDOW.SIZE", "[]").TEST.WINDOW.SIZE == []


def test_one_file_may_have_the_heads_of_one_stage_and_two_stage_detectors(loaded):
    text = f"{TORCHVISION}\nMODEL: {{RETINANET: {{NUM_CLASSES: 2}}, ROI_HEADS: {{NUM_CLASSES: 2}}}}"
    for name in ("RetinaNet", "FasterRCNN"):
        assert name == loaded(text, "MODEL.META_ARCHITECTURE", name).MODEL.META_ARCHITECTURE


@pytest.mark.parametrize(
    ("framework", "key", "value", "readers"),
    [
        ("torchvision", "KD.STUDENT.META_ARCHITECTURE", "RetinaNet", "detectron2"),
        ("torchvision", "KD.VIEWS", "{MODE: same}", "timm"),
        ("timm", "KD.UNLABELED", "{DATASETS: [a]}", "detectron2 and torchvision"),
        ("timm", "KD.INIT_FROM_TEACHER", "neck", "detectron2 and torchvision"),
        ("timm", "MODEL.META_ARCHITECTURE", "RetinaNet", "torchvision"),
    ],
)
def test_a_key_of_another_framework_is_refused_with_that_reason(loaded, framework, key, value, readers):
    text = rf"^{key}: FRAMEWORK {framework} does not read this key, only {readers}$"
    *groups, last = key.split(".")
    for name in (last, *reversed(groups)):
        value = f"{{{name}: {value}}}"
    with pytest.raises(ConfigError, match=text):
        loaded(f"FRAMEWORK: {framework}\n{value[1:-1]}")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("LOSSES: {mgd: {RATO: 0.5}}", "KD.LOSSES.mgd.RATO: no such key; did you mean RATIO"),
        ("LOSSES: {mgdd: {}}", "KD.LOSSES.mgdd: there is no loss 'mgdd'; did you mean mgd"),
        ("TAPS: [fpn]", r"KD.TAPS: tap 'fpn' is not of the form"),
        ("STUDENT: {TAPS: ['a=x', 'b=x', 'a=x']}", "KD.STUDENT.TAPS: a=x stands there twice"),
        ("TEACHER: {OPTS: [MODEL.DEVICE]}", "KD.TEACHER.OPTS: expected KEY VALUE pairs, found 1 words"),
        ("TEACHER: {OPTS: [INPUT.MIN_SIZE_TRAIN, '[64]']}", "KD.TEACHER.OPTS: INPUT.MIN_SIZE_TRAIN is not read of a"),
    ],
)
def test_losses_taps_and_teachers_are_judged_by_their_text(loaded, text, found):
    with pytest.raises(ConfigError, match=f"^{found}"):
        loaded(f"{TORCHVISION}\nKD: {{{text}}}")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("[a.yaml]", r"KD.TEACHERS\[0\] is 'a.yaml', expected a group of keys: CONFIG_FILE, WEIGHTS, OPTS"),
        ("[{}, {WEIGHT: a}]", r"KD.TEACHERS\[1\].WEIGHT: no such key; did you mean WEIGHTS"),
        ("[{CONFIG_FILE: 5}]", r"KD.TEACHERS\[0\].CONFIG_FILE is 5 \(int\), expected text"),
        ("[{OPTS: [INPUT.TEST_SCALE, 1]}]", r"KD.TEACHERS\[0\].OPTS: INPUT.TEST_SCALE is not read of a teacher"),
        ("{a: {CONFIG_FILE: b}}", "KD.TEACHERS is .*expected a list of any values"),
    ],
)
def test_further_teachers_are_a_list_of_blocks(loaded, value, found):
    with pytest.raises(ConfigError, match=f"^{found}"):
        loaded(f"{TIMM}\nKD: {{TEACHERS: {value}}}")


@pytest.mark.parametrize("framework", ["torchvision", "timm"])
def test_a_dumped_config_loads_again_equal(loaded, framework, tmp_path):
    cfg = loaded(f"FRAMEWORK: {framework}\nKD: {{LOSSES: {{mgd: {{WEIGHT: 2}}}}}}")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    assert load(str(tmp_path / "config.yaml")) == cfg


@pytest.mark.parametrize("framework", ["torchvision", "timm"])
def test_every_default_is_a_value_that_its_key_allows(framework):
    for key in KEYS[framework].values():
        if key.name != "FRAMEWORK":
            check_value(key.name, key.default, key.kind)


def test_checks_of_detectron2s_keys_name_its_keys_and_allow_its_defaults():
    get_cfg = pytest.importorskip("detectron2.config").get_cfg
    projects = pytest.importorskip("detectron2.projects.deeplab")
    defaults = add_kd_config(get_cfg())
    projects.add_deeplab_config(defaults)
    known = dict(leaves(defaults))
    for name, kind in CHECKS.items():
        check_value(name, known[name], kind)


def test_files_are_not_touched_by_a_config_of_another_place(loaded):
    """Nothing that a config names need exist for it to be read."""
    cfg = loaded(f"{TORCHVISION}\nMODEL: {{WEIGHTS: nowhere.pth}}\nOUTPUT_DIR: nowhere")
    assert (cfg.MODEL.WEIGHTS, Path("nowhere").exists()) == ("nowhere.pth", False)


def test_the_dump_is_plain_yaml(loaded):
    assert yaml.safe_load(loaded(TORCHVISION).dump())["FRAMEWORK"] == "torchvision"


def detectron2(tmp_path, text: str):
    """A Detectron2 config; its own defaults are the engine's, this test has enough of them."""
    node = pytest.importorskip("detectron2.config")
    defaults = add_kd_config(node.get_cfg())
    defaults.TEST.WINDOW = node.CfgNode({"SIZE": [], "STRIDE": []})
    (tmp_path / "run.yaml").write_text(text)
    return load(str(tmp_path / "run.yaml"), defaults=defaults)


def test_a_detectron2_student_is_named_plainly(tmp_path):
    cfg = detectron2(tmp_path, "MODEL: {META_ARCHITECTURE: RetinaNet}\nKD: {LOSSES: {mgd: {}}}")
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.KD.STUDENT.META_ARCHITECTURE) == ("RetinaNet", "")


def test_the_form_for_build_model_is_read_too(tmp_path):
    text = "MODEL: {META_ARCHITECTURE: Distiller}\nKD: {STUDENT: {META_ARCHITECTURE: RetinaNet}}"
    assert detectron2(tmp_path, text).KD.STUDENT.META_ARCHITECTURE == "RetinaNet"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("MODEL: {META_ARCHITECTURE: Distiller}", "MODEL.META_ARCHITECTURE is 'Distiller', expected the student's"),
        (
            "MODEL: {META_ARCHITECTURE: RetinaNet}\nKD: {STUDENT: {META_ARCHITECTURE: RetinaNet}}",
            "KD.STUDENT.META_ARCHITECTURE is 'RetinaNet', but MODEL.META_ARCHITECTURE names the student: 'RetinaNet'",
        ),
        (
            "MODEL: {META_ARCHITECTURE: RetinaNet}\nTEST: {WINDOW: {SIZE: [64, 64]}}",
            "TEST.WINDOW.SIZE is given, but RetinaNet does not read it",
        ),
        ("VERSION: 1", "VERSION is 1; choices: 2"),
        ("DATASETS: {TRAIN: [1]}", r"DATASETS.TRAIN\[0\] is 1 \(int\), expected text"),
    ],
)
def test_what_detectron2_would_not_read_is_refused(tmp_path, text, found):
    with pytest.raises(ConfigError, match=f"^{found}"):
        detectron2(tmp_path, text)


def test_an_architecture_of_the_users_own_is_not_judged(tmp_path):
    text = "MODEL: {META_ARCHITECTURE: MyNet}\nTEST: {WINDOW: {SIZE: [64, 64]}}"
    assert detectron2(tmp_path, text).TEST.WINDOW.SIZE == [64, 64]


def test_without_detectron2s_defaults_its_configs_cannot_be_loaded(tmp_path):
    (tmp_path / "run.yaml").write_text("FRAMEWORK: detectron2")
    with pytest.raises(ConfigError, match="^FRAMEWORK is detectron2, whose defaults need Detectron2"):
        load(str(tmp_path / "run.yaml"))


@pytest.mark.parametrize(
    "argument", ["checkpoint_path", "pretrained_cfg", "pretrained", "weights", "cache_dir", "progress"]
)
@pytest.mark.parametrize(("framework", "key"), [("torchvision", "MODEL.BACKBONE.ARGS"), ("timm", "MODEL.ARGS")])
def test_arguments_by_which_a_library_reads_weights_are_refused(loaded, framework, key, argument):
    with pytest.raises(
        ConfigError, match=rf"^{key}.{argument}: a library reads no file by its arguments; the keys WEI"
    ):
        loaded(f"FRAMEWORK: {framework}", f"{key}.{argument}", "x.pth")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (f"{TIMM}\nMODEL: {{CLASSES: [a, b, a]}}", "MODEL.CLASSES"),
        (f"{TORCHVISION}\nKD: {{TEACHER: {{CLASSES: [a, b, a]}}}}", "KD.TEACHER.CLASSES"),
        (f"{TORCHVISION}\nKD: {{TEACHERS: [{{CLASSES: [a, b, a]}}]}}", r"KD.TEACHERS\[0\].CLASSES"),
    ],
)
def test_a_class_that_stands_twice_is_refused(loaded, text, key):
    with pytest.raises(ConfigError, match=f"^{key} has 'a' twice, expected each class once$"):
        loaded(text)
