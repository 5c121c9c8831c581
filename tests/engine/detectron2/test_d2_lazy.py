"""LazyConfig files of Detectron2: as the config of a run, below one, and as a teacher."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import shutil
from pathlib import Path

import torch
import yaml
from detectron2.config import LazyConfig, instantiate
from detectron2.data import MetadataCatalog
from PIL import Image

from kd2 import cli, engine
from kd2.config import read
from kd2.distill import ConfigError
from kd2.engine.detectron2.config import run_config, teacher_config
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.models import build_plain
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.permission import permitted
from kd2.engine.pseudo_labels import find_objects

from ...helpers.d2_families import LAZY, OBJECTS, drawn_families, family_config
from ...helpers.d2_tiny import different, distiller_of, previous, train, weights, write_config

# A whole training, in the form of Detectron2's own configs.
WHOLE = """
from functools import partial
from detectron2 import model_zoo
from detectron2.config import LazyCall
from detectron2.data import transforms
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from .fcos import model

def half_of_the_head(name):
    return 0.5 if name.startswith("head.") else 1.0

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.dataset.names = dataloader.test.dataset.names = "family_objects"
dataloader.train.update(num_workers=0, total_batch_size=2)
dataloader.train.mapper.update(use_instance_mask=False, augmentations=[
    LazyCall(transforms.ResizeShortestEdge)(short_edge_length=48, max_size=80)])
dataloader.test.mapper.augmentations[0].update(short_edge_length=56, max_size=80)
optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.params.lr_factor_func = half_of_the_head
optimizer.update(lr=0.002, weight_decay=0.05)
lr_multiplier = LazyCall(WarmupParamScheduler)(
    scheduler=LazyCall(MultiStepParamScheduler)(values=[1.0, 0.25], milestones=[2], num_updates=4),
    warmup_length=0.0, warmup_factor=1.0, warmup_method="linear")
train = model_zoo.get_config("common/train.py").train
train.update(max_iter=4, eval_period=0, output_dir="OUT")
train.checkpointer.period = 2
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    with drawn_families(tmp_path_factory.mktemp("drawn")) as folder:
        yield folder


@pytest.fixture
def whole(drawn, tmp_path):
    """A LazyConfig file of a whole training, beside the model that it imports."""
    for name in ("fcos.py", "tiny_rcnn.py"):
        shutil.copy(LAZY / name, tmp_path)
    path = tmp_path / "whole.py"
    path.write_text(WHOLE.replace("OUT", str(tmp_path / "out")))
    return str(path)


def config_of(path, **content) -> str:
    Path(path).write_text(yaml.safe_dump(content))
    return str(path)


def loaded(path: str, *options: str):
    return run_config(read(path, ["MODEL.DEVICE", "cpu", *options]), path)


@pytest.fixture
def marking(tmp_path):
    """A config file that leaves a marker when it runs."""
    path = tmp_path / "marking.py"
    path.write_text(f"import os\nos.mkdir({str(tmp_path / 'marker')!r})\nmodel = {{}}\n")
    return str(path)


@pytest.mark.parametrize("place", ["config", "base", "key", "teacher"])
def test_without_the_option_no_code_runs(data, tmp_path, marking, capsys, place):
    own = {"config": lambda: marking, "base": lambda: config_of(tmp_path / "c.yaml", _BASE_="marking.py")}
    own["key"] = lambda: config_of(tmp_path / "c.yaml", MODEL={"LAZY_CONFIG": "marking.py"})
    changes = {"KD": {"TEACHER": {"CONFIG_FILE": marking, "WEIGHTS": "x.pth"}, "LOSSES": {"mimic": {}}}}
    own["teacher"] = lambda: write_config(tmp_path, data, changes)
    arguments = ["--config-file", own[place](), "DATASETS.TEST", "[]", "OUTPUT_DIR", str(tmp_path / "out")]
    assert cli.guarded(lambda: cli.run_train(cli.train_parser().parse_args(arguments))) == 1
    *_, line = capsys.readouterr().err.strip().splitlines()
    assert (
        line == f"error: {marking} is Python, which runs when it is read; --allow-code reads it, for a file you trust"
    )
    assert not (tmp_path / "marker").exists()


def test_with_the_option_it_does(tmp_path, marking):
    with pytest.raises(ConfigError, match="marking.py describes no model"), permitted(code=True):
        loaded(marking)
    assert (tmp_path / "marker").is_dir()


def test_a_config_cannot_permit_itself(tmp_path, marking):
    path = config_of(tmp_path / "c.yaml", _BASE_="marking.py", KD={"ALLOW_CODE": True})
    with pytest.raises(ConfigError):
        engine.run(path, [])
    assert not (tmp_path / "marker").exists()


def test_its_settings_are_the_defaults_of_the_keys(whole):
    cfg = loaded(whole, "SOLVER.BASE_LR", "0.004")
    assert cfg.DATASETS.TRAIN == cfg.DATASETS.TEST == (OBJECTS,)
    assert (cfg.SOLVER.OPTIMIZER, cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY) == ("AdamW", 0.004, 0.05)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.IMS_PER_BATCH) == (4, 2, 2)
    assert dict(cfg.SOLVER.OPTIMIZER_ARGS) == {"betas": [0.9, 0.999]}
    assert (cfg.MODEL.META_ARCHITECTURE, cfg.INPUT.FORMAT, cfg.MODEL.MASK_ON) == ("FCOS", "BGR", False)


def test_its_mapper_rates_and_schedule_are_used(whole):
    cfg = loaded(whole, "SEED", "1")
    assert {min(x["image"].shape[1:]) for x in next(iter(train_loader(cfg)))} == {48}
    optimizer = Trainer.build_optimizer(cfg, distiller_of(cfg))
    assert {group["lr"] for group in optimizer.param_groups} == {0.002, 0.001}
    schedule = Trainer.build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"] / schedule.base_lrs[0])
        optimizer.step(), schedule.step()
    assert rates == [1.0, 1.0, 0.25, 0.25]


def test_it_trains_and_resumes_exactly(whole, tmp_path):
    options = ["MODEL.DEVICE", "cpu", "SEED", "5"]
    scores = train(whole, *options, allow_code=True)
    assert "bbox/AP" in scores
    once = weights(tmp_path / "out")
    previous(tmp_path / "out")
    train(whole, *options, allow_code=True, resume=True)
    assert different(weights(tmp_path / "out"), once) == []


def test_pseudo_labels_below_its_own_threshold_are_refused(whole, tmp_path):
    train(whole, "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "1", allow_code=True)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    words = ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"), "MODEL.DEVICE", "cpu"]
    with pytest.raises(ConfigError, match="^--score is 0.05, but test_score_thresh of the model is 0.2: objects"):
        find_objects(whole, words, str(tmp_path), 0.05, ["box", "bar"], allow_code=True)


def test_the_config_that_a_run_leaves_starts_it_again(whole, tmp_path):
    options = [
        "MODEL.DEVICE",
        "cpu",
        "SEED",
        "5",
        "SOLVER.MAX_ITER",
        "2",
        "MODEL.LAZY_OVERRIDES",
        "['optimizer.lr=0.5']",
    ]
    train(whole, *options, allow_code=True)
    train(str(tmp_path / "out" / "config.yaml"), "OUTPUT_DIR", str(tmp_path / "again"), allow_code=True)
    assert different(weights(tmp_path / "again"), weights(tmp_path / "out")) == []


def test_the_students_config_is_one_of_detectron2s_lazy_form(whole, tmp_path):
    train(whole, "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", "1", allow_code=True)
    student = LazyConfig.load(str(tmp_path / "out" / "student.yaml"))
    model = instantiate(student.model)
    state = torch.load(student.train.init_checkpoint, weights_only=True)["model"]
    assert model.load_state_dict(state, strict=True) and type(model).__name__ == "FCOS"


def test_overrides_change_what_a_file_says(whole):
    cfg = loaded(whole, "MODEL.LAZY_OVERRIDES", "['model.num_classes=7', 'optimizer.lr=0.5']")
    assert build_plain(cfg, "x").num_classes == 7 and cfg.SOLVER.BASE_LR == 0.5


def test_a_teacher_of_this_form_reads_its_own_color_order(drawn, tmp_path):
    cfg = loaded(
        family_config(tmp_path, drawn, "Faster R-CNN", "mimic"), "KD.TEACHER.CONFIG_FILE", str(LAZY / "vitdet.py")
    )
    own = teacher_config(cfg)
    assert (own.INPUT.FORMAT, own.MODEL.META_ARCHITECTURE) == ("RGB", "GeneralizedRCNN")


def test_a_teacher_of_detectron2s_zoo_needs_no_file(drawn, tmp_path):
    options = ["KD.TEACHER.CONFIG_FILE", "COCO-Detection/fcos_R_50_FPN_1x.py"]
    own = teacher_config(loaded(family_config(tmp_path, drawn, "FCOS", "mimic"), *options))
    assert own.MODEL.META_ARCHITECTURE == "FCOS" and own.MODEL.WEIGHTS.endswith("R-50.pkl")


@pytest.mark.parametrize(
    "name", ["COCO-Detection/retinanet_R_50_FPN_1x.py", "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py"]
)
def test_configs_of_the_zoo_are_read_as_they_are(drawn, tmp_path, name):
    cfg = loaded(config_of(tmp_path / "c.yaml", _BASE_=f"detectron2://{name}"))
    assert name.startswith("COCO-Key") == cfg.MODEL.KEYPOINT_ON and cfg.SOLVER.MAX_ITER == 90000
    assert MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).name.endswith("2017_train")


@pytest.mark.parametrize(
    "change, text",
    [
        ("model.num_classes = 1 / 0", "^MODEL.LAZY_CONFIG: .*whole.py: ZeroDivisionError: division by zero$"),
        ("del model", "^MODEL.LAZY_CONFIG: .*whole.py describes no model; expected model = LazyCall"),
        ("model.nothing = 3", "^MODEL.LAZY_CONFIG: .*whole.py: model: .*nothing"),
        ("dataloader.train.sampler = dict(a=1)", "whole.py: dataloader.train.sampler is given, expected only dataset"),
        (
            "dataloader.train.mapper._target_ = partial",
            "dataloader.train.mapper calls partial, expected .*DatasetMapper",
        ),
        ("train.max_iter = 'long'", r"^SOLVER.MAX_ITER is 'long' \(str\), expected"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(whole, change, text):
    with open(whole, "a") as file:
        file.write(f"\n{change}\n")
    with pytest.raises(ConfigError, match=text) as caught:
        build_plain(loaded(whole), "x")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "key, value, place",
    [
        ("MODEL.FPN.OUT_CHANNELS", "32", "model"),
        ("INPUT.MIN_SIZE_TRAIN", "[64]", "dataloader.train.mapper"),
        ("INPUT.SCALE_JITTER.ENABLED", "True", "dataloader.train.mapper"),
        ("INPUT.COLOR_JITTER.BRIGHTNESS", "0.4", "dataloader.train.mapper"),
        ("SOLVER.STEPS", "[1]", "lr_multiplier"),
    ],
)
def test_a_key_that_the_file_decides_is_refused(whole, key, value, place):
    with pytest.raises(ConfigError, match=f"^{key} is given, but {place} of .*whole.py decides it"):
        loaded(whole, key, value)


def test_the_size_of_tests_is_refused_beside_a_mapper_of_tests(whole):
    with open(whole, "a") as file:
        file.write("\ndel dataloader.train.mapper\n")
    with pytest.raises(ConfigError, match="^INPUT.MIN_SIZE_TEST is given, but dataloader.test.mapper of .*whole.py"):
        loaded(whole, "INPUT.MIN_SIZE_TEST", "64")
    assert loaded(whole, "INPUT.SCALE_JITTER.ENABLED", "True").INPUT.SCALE_JITTER.ENABLED


def test_a_moving_average_is_none_of_the_files_matters(whole):
    assert loaded(whole, "MODEL.EMA.ENABLED", "True").MODEL.EMA.ENABLED


def test_an_override_that_does_not_apply_is_refused(whole):
    with pytest.raises(ConfigError, match=r"^MODEL.LAZY_OVERRIDES is \['model=='\]"):
        loaded(whole, "MODEL.LAZY_OVERRIDES", "['model==']")


def test_images_beyond_the_teachers_square_are_refused(drawn, tmp_path):
    config = family_config(tmp_path, drawn, "Faster R-CNN", "mimic", teacher="ViTDet")
    text = "^INPUT.MAX_SIZE_TRAIN is 333, the teacher pads its images to 128 x 128 pixels; expected 128 at most$"
    with pytest.raises(ConfigError, match=text):
        distiller_of(loaded(config, "INPUT.MAX_SIZE_TRAIN", "333"))


def test_a_student_that_pads_to_a_square_needs_such_a_teacher(drawn, tmp_path):
    config = family_config(tmp_path, drawn, "ViTDet", "mimic", teacher="Faster R-CNN")
    with pytest.raises(
        ConfigError, match="^the student pads its images to 128 x 128 pixels, the teacher .* expected the same"
    ):
        distiller_of(loaded(config))


def test_a_further_teacher_without_the_students_square_is_named(drawn, tmp_path):
    config, other = family_config(tmp_path, drawn, "ViTDet", "mimic"), tmp_path / "other"
    family_config(other, drawn, "Faster R-CNN", "mimic")
    second = str([{"CONFIG_FILE": str(other / "teacher.yaml"), "WEIGHTS": str(other / "teacher.pth")}])
    with pytest.raises(ConfigError, match=r"the teacher of KD.TEACHERS\[0\].CONFIG_FILE to what they need"):
        distiller_of(loaded(config, "KD.TEACHERS", second))
