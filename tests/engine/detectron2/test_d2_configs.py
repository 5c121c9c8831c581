"""The Detectron2 configs of the project."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import glob
import os
from types import SimpleNamespace

import torch
from detectron2.config import get_cfg
from detectron2.engine import DefaultTrainer

from kd2.config import framework_of, read, taps_of
from kd2.config.schedule import scaled_config
from kd2.distill import ConfigError, Tap, probed
from kd2.engine.detectron2 import add_d2_config, compat, zoo
from kd2.engine.detectron2.config import teacher_config
from kd2.engine.detectron2.experiment import Detectron2Experiment
from kd2.engine.detectron2.models import blank_probe, class_keys, probe_size
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.init_from_teacher import init_from_teacher
from kd2.losses.blocks import active_losses, build_losses
from kd2.zoo.detectron2 import address

from ...helpers.d2_tiny import distiller_of, load_config, student_of

CONFIGS = os.path.join(os.path.dirname(__file__), "..", "..", "..", "configs")


def ours() -> list[str]:
    """Names of the project's Detectron2 configs."""
    paths = sorted(glob.glob(os.path.join(CONFIGS, "**", "*.yaml"), recursive=True))
    found = [path for path in paths if framework_of(read(path), path) == "detectron2"]
    return [os.path.relpath(path, CONFIGS).removesuffix(".yaml") for path in found]


OURS = ours()
ZOO_PAIRS = [name for name in OURS if name.startswith("coco/") and "Base" not in name]

# Those with fewer losses are their bases.
SEGMENTATION = [
    name
    for name in OURS
    if name.startswith(("cityscapes/", "camvid/")) and name.split("/")[1].startswith(("skd_pi_pa_ho", "mgd", "tat"))
]


@pytest.mark.parametrize("name", OURS)
def test_detectron2s_own_reader_understands_the_file(name):
    path = os.path.join(CONFIGS, f"{name}.yaml")
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(path, allow_unsafe=False)
    ours = load_config(path)
    for key in ("SOLVER", "INPUT", "DATASETS"):
        assert cfg[key] == ours[key]


def test_there_are_configs():
    assert {"Base-RetinaNet", "bccd/imitation", "coco/mgd_retinanet_r101_r50"} <= set(OURS)


@pytest.mark.parametrize("name", OURS)
def test_losses_are_valid(name):
    active_losses(load_config(os.path.join(CONFIGS, f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]).KD.LOSSES)


def counts(model, cfg) -> dict[str, int]:
    return {kind: count for kind, (_, count) in class_keys(model, cfg).items()}


@pytest.mark.parametrize("name", ZOO_PAIRS)
def test_the_zoos_teacher_fits_the_student(name):
    """Weights, classes, colors, tapped levels, and what is inherited."""
    cfg = load_config(os.path.join(CONFIGS, f"{name}.yaml"), ["MODEL.DEVICE", "meta"])
    own = teacher_config(cfg)
    student, teacher = student_of(cfg), student_of(own)
    assert address(cfg.KD.TEACHER.WEIGHTS, "KD.TEACHER.WEIGHTS").endswith(".pkl")
    assert cfg.KD.TEACHER.WEIGHTS == cfg.KD.TEACHER.CONFIG_FILE
    assert counts(student, cfg) == counts(teacher, own)
    assert cfg.INPUT.FORMAT == own.INPUT.FORMAT
    shapes = []
    for model, side in ((student, "STUDENT"), (teacher, "TEACHER")):
        texts, _ = taps_of(cfg, side)
        (tap,) = [tap for tap in map(Tap.parse, texts) if tap.path == "backbone"]
        levels = model.backbone.output_shape()
        shapes.append([(levels[key].channels, levels[key].stride) for key in tap.keys or levels])
    assert shapes[0] == shapes[1]
    if cfg.KD.INIT_FROM_TEACHER:
        parts, partial = cfg.KD.INIT_FROM_TEACHER, cfg.KD.INIT_FROM_TEACHER_PARTIAL
        assert init_from_teacher(student, teacher, parts, Detectron2Experiment.backbone, partial).left == []


@pytest.mark.parametrize(
    "base, original, changed",
    [
        ("Base-RetinaNet", "COCO-Detection/retinanet_R_50_FPN_1x.yaml", {"WEIGHTS", "DEVICE"}),
        ("Base-RCNN-FPN", "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml", {"WEIGHTS", "DEVICE"}),
    ],
)
def test_our_bases_are_the_zoos(base, original, changed):
    ours, theirs = add_d2_config(get_cfg()), add_d2_config(get_cfg())
    ours.merge_from_file(os.path.join(CONFIGS, f"{base}.yaml"), allow_unsafe=False)
    theirs.merge_from_file(zoo.config_path(original, "original"))
    for cfg in (ours, theirs):
        for key in changed:
            del cfg.MODEL[key]
    assert ours == theirs


@pytest.mark.parametrize("name, millions", [("bccd/teacher", 12.0), ("bccd/imitation", 0.5)])
def test_students_of_the_blood_cell_configs_have_the_stated_size(name, millions):
    model = student_of(load_config(os.path.join(CONFIGS, f"{name}.yaml"), ["MODEL.DEVICE", "cpu"]))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize(
    "name, millions",
    [
        ("teacher_psp_r101", 70.3),
        ("skd_pi_psp_r101_r18", 12.9),
        ("skd_pi_pa_ho_psp_r101_r18_scratch", 13.07),
        ("skd_pi_pa_ho_psp_r101_r18_half", 3.3),
        ("skd_pi_pa_ho_psp_r101_mobilenetv2", 3.05),
        ("skd_pi_pa_ho_psp_r101_espnet_c", 0.349),
        ("skd_pi_pa_ho_psp_r101_espnet", 0.364),
    ],
)
def test_networks_for_cityscapes_have_the_stated_size(name, millions):
    options = ["MODEL.DEVICE", "meta", "MODEL.TIMM.PRETRAINED", "False"]
    with torch.device("meta"):
        model = student_of(load_config(os.path.join(CONFIGS, "cityscapes", f"{name}.yaml"), options))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.01)


@pytest.mark.parametrize("name", SEGMENTATION)
def test_taps_and_losses_of_segmentation_fit_both_models(name):
    """Shapes alone are computed: nothing is drawn."""
    options = ["MODEL.DEVICE", "meta", "MODEL.TIMM.PRETRAINED", "False"]
    cfg = load_config(os.path.join(CONFIGS, f"{name}.yaml"), options)
    own, specs = teacher_config(cfg), []
    assert own.MODEL.SEM_SEG_HEAD.NUM_CLASSES == cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    for model_cfg, side in ((cfg, "STUDENT"), (own, "TEACHER")):
        with torch.device("meta"):
            model = student_of(model_cfg)
        probe = blank_probe(model, probe_size(cfg))
        texts, key = taps_of(cfg, side)
        specs.append(probed(model, texts, probe, key).specs)
    with torch.device("meta"):
        build_losses(cfg.KD.LOSSES, *specs)


def test_build_model_of_a_plain_script_works_after_an_import(monkeypatch):
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_file(os.path.join(CONFIGS, "coco", "fgd_imitation.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "KD.LOSSES.imitation.SHARE", 0.0, "MODEL.RESNETS.DEPTH", 50])
    assert type(distiller_of(cfg).student).__name__ == "RetinaNet"


def test_the_rule_for_more_processes_is_detectron2s():
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_list(["SOLVER.REFERENCE_WORLD_SIZE", 4, "SOLVER.MAX_ITER", 1000, "SOLVER.STEPS", (800,)])
    cfg.merge_from_list(["TEST.EVAL_PERIOD", 100, "SOLVER.CHECKPOINT_PERIOD", 500])
    assert scaled_config(cfg, 8) == DefaultTrainer.auto_scale_workers(cfg, 8)


def test_a_step_at_the_very_end_has_no_effect():
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_list(["SOLVER.MAX_ITER", 10, "SOLVER.STEPS", (5, 10), "SOLVER.WARMUP_ITERS", 0])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = Trainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 5)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["MODEL.DEVICE", "gpu"], "^MODEL.DEVICE is 'gpu', expected cpu or cuda$"),
        (
            ["MODEL.RPN.IOU_LABELS", "[0, 1]"],
            r"^MODEL.RPN.IOU_THRESHOLDS is \[0.3, 0.7\] and IOU_LABELS \[0, 1\], expected",
        ),
        (["MODEL.RETINANET.IOU_THRESHOLDS", "[0.5, 0.4]"], r"^MODEL.RETINANET.IOU_THRESHOLDS is \[0.5, 0.4\]"),
        (["MODEL.RPN.NMS_THRESH", "1e999"], "^MODEL.RPN.NMS_THRESH is inf, expected a number in .*, finite$"),
        (["MODEL.RPN.LOSS_WEIGHT", "-1.0"], "^MODEL.RPN.LOSS_WEIGHT is -1.0, expected a number of 0 or more$"),
        (["MODEL.PIXEL_STD", "[1.0]"], r"^MODEL.PIXEL_STD is \[1.0\], expected as many numbers as PIXEL_MEAN"),
        (
            ["INPUT.MIN_SIZE_TRAIN_SAMPLING", "range"],
            r"^INPUT.MIN_SIZE_TRAIN is \[800\], expected two sizes for a range$",
        ),
        (
            ["MODEL.META_ARCHITECTURE", "RetinaNet", "TEST.WINDOW.SIZE", "[9, 9]"],
            "^TEST.WINDOW.SIZE is given, but Retina",
        ),
        (["KD.TEACHER.OPTS", "['SOLVER.MAX_ITER', 5]"], "^KD.TEACHER.OPTS: SOLVER.MAX_ITER is not read of a teacher"),
    ],
)
def test_a_value_that_detectron2_would_break_on_or_ignore_is_refused(tmp_path, options, text):
    path = tmp_path / "run.yaml"
    path.write_text("FRAMEWORK: detectron2\nMODEL: {DEVICE: cpu}")
    with pytest.raises(ConfigError, match=text):
        load_config(str(path), options)


WRAPPED = ["MODEL.META_ARCHITECTURE", "Distiller", "KD.STUDENT.META_ARCHITECTURE", "PanopticDeepLab"]
COLORS = ["INPUT.COLOR_JITTER.CONTRAST", "0.4"]
SIZES = ["INPUT.SCALE_JITTER.ENABLED", "True", "INPUT.CROP.ENABLED", "False"]


@pytest.mark.parametrize("student", [["MODEL.META_ARCHITECTURE", "PanopticDeepLab"], WRAPPED])
@pytest.mark.parametrize(("jitter", "key"), [(COLORS, "COLOR_JITTER"), (SIZES, "SCALE_JITTER.ENABLED")])
def test_a_jitter_is_refused_where_detectron2_augments_by_itself(tmp_path, student, jitter, key):
    path = tmp_path / "run.yaml"
    path.write_text("FRAMEWORK: detectron2")
    load_config(str(path), student)
    with pytest.raises(ConfigError, match=f"^INPUT.{key} is given, but Detectron2's own augmentation of PanopticDeepL"):
        load_config(str(path), [*student, *jitter])


@pytest.mark.parametrize(
    ("precision", "dtype", "scaled"), [("fp16", torch.float16, True), ("bf16", torch.bfloat16, False)]
)
def test_mixed_precision_is_that_of_the_key(precision, dtype, scaled):
    """On the loop that Detectron2 makes; it runs on GPUs alone."""
    loop = SimpleNamespace(precision=torch.float16, grad_scaler=torch.amp.GradScaler("cpu"))
    cfg = add_d2_config(get_cfg())
    cfg.merge_from_list(["SOLVER.AMP.ENABLED", True, "SOLVER.AMP.PRECISION", precision])
    compat.set_mixed_precision(SimpleNamespace(cfg=cfg, _trainer=loop))
    assert (loop.precision, loop.grad_scaler.is_enabled()) == (dtype, scaled)


def test_mixed_precision_is_detectron2s_where_nothing_is_said():
    assert add_d2_config(get_cfg()).SOLVER.AMP.PRECISION == "fp16"
