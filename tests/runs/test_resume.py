"""What a resumed run makes of a config that is not its own."""

import pytest
import torch
import yaml

from kd2.config import add_kd_config, defaults_of
from kd2.config.merging import leaves
from kd2.distill import ConfigError
from kd2.runs.resume import APPLIED, FATES, FREE, REFUSED, apply_rates, check_resume, fate_of, rates_of

CLASSES = {"things": ["box", "bar"]}


def config(**values):
    """A config of torchvision with an imitation loss; ``values`` as SOLVER__BASE_LR=0.1."""
    cfg = defaults_of("torchvision")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ["mine"], ["other"]
    for name in ("mine", "other"):
        cfg.DATASETS.CUSTOM[name] = type(cfg)({"JSON": f"{name}.json", "IMAGES": name})
    cfg.KD.LOSSES.imitation = type(cfg)({"WEIGHT": 0.1})
    for name, value in values.items():
        *parents, last = name.split("__")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[last] = value
    return cfg


def resumed(classes=CLASSES, iteration=3, before=None, **values) -> list[str]:
    """What is said when a run of ``before`` goes on with ``values``."""
    entry = {"config": config(**(before or {})).dump(), "classes": CLASSES}
    return check_resume(entry, iteration, config(**values), classes)


def test_the_same_config_says_nothing():
    assert resumed() == []


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("SOLVER__BASE_LR", 0.5, "SOLVER.BASE_LR was 0.001, is 0.5"),
        ("SOLVER__WEIGHT_DECAY", 0.5, "SOLVER.WEIGHT_DECAY was 0.0001, is 0.5"),
        ("SOLVER__STEPS", [3], "SOLVER.STEPS was [30000], is [3]"),
        ("SOLVER__MAX_ITER", 8, "SOLVER.MAX_ITER was 40000, is 8"),
        ("SOLVER__CHECKPOINT_PERIOD", 7, "SOLVER.CHECKPOINT_PERIOD was 5000, is 7"),
        ("TEST__EVAL_PERIOD", 7, "TEST.EVAL_PERIOD was 0, is 7"),
        ("TEST__PATIENCE", 7, "TEST.PATIENCE was 0, is 7"),
        ("DATALOADER__NUM_WORKERS", 0, "DATALOADER.NUM_WORKERS was 4, is 0"),
        ("OUTPUT_DIR", "new", "OUTPUT_DIR was './output', is 'new'"),
        ("DATASETS__CUSTOM__other__JSON", "new.json", "DATASETS.CUSTOM.other.JSON was 'other.json', is 'new.json'"),
    ],
)
def test_what_is_applied_is_said(key, value, text):
    assert resumed(**{key: value}) == [f"{text} from iteration 4 on"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SEED", 3),
        ("SOLVER__OPTIMIZER", "AdamW"),
        ("SOLVER__IMS_PER_BATCH", 2),
        ("SOLVER__ACCUMULATE", 2),
        ("MODEL__EMA__ENABLED", True),
        ("INPUT__SCALE_JITTER__ENABLED", True),
        ("SOLVER__CLIP_GRADIENTS__ENABLED", True),
        ("SOLVER__CLIP_GRADIENTS__CLIP_TYPE", "norm"),
        ("SOLVER__AMP__ENABLED", True),
        ("MODEL__BACKBONE__NAME", "resnet18"),
        ("MODEL__RETINANET__NUM_CLASSES", 3),
        ("INPUT__MIN_SIZE_TRAIN", [64]),
        ("DATASETS__TRAIN", ["other"]),
        ("DATASETS__CUSTOM__mine__JSON", "new.json"),
        ("KD__TAPS", ["fpn=backbone:p3"]),
        ("KD__TEACHER__WEIGHTS", "other.pth"),
        ("KD__LOSSES__imitation__WEIGHT", 0.2),
        ("KD__LOSSES__imitation__ADAPTER", "conv3x3"),
    ],
)
def test_what_a_run_keeps_to_its_end_is_refused_by_name(key, value):
    with pytest.raises(ConfigError, match=rf"^--resume: {key.replace('__', '.')} was .*, is .*; a run keeps these"):
        resumed(**{key: value})


def test_an_average_without_the_weights_that_train_is_refused():
    with pytest.raises(ConfigError, match="^--resume: MODEL.EMA.ENABLED is True, but the checkpoint has no kd2.raw_m"):
        resumed(MODEL__EMA__ENABLED=True, before={"MODEL__EMA__ENABLED": True})


def test_every_refused_key_is_named_at_once():
    with pytest.raises(ConfigError, match="KD.TAPS was .*; SOLVER.OPTIMIZER was 'SGD', is 'AdamW';"):
        resumed(SOLVER__OPTIMIZER="AdamW", KD__TAPS=["fpn=backbone:p3"], SOLVER__BASE_LR=0.1)


@pytest.mark.parametrize("key", ["MODEL__WEIGHTS", "KD__INIT_FROM_TEACHER"])
def test_what_played_its_part_before_the_first_iteration_is_free(key):
    assert resumed(**{key: "neck"}) == []


def test_other_class_names_are_refused():
    with pytest.raises(ConfigError, match=r"class names were \{'things': \['box', 'bar'\]\}, are "):
        resumed(classes={"things": ["bar", "box"]})


def test_a_run_that_is_past_its_new_end_is_refused():
    text = "^--resume: SOLVER.MAX_ITER is 3, the checkpoint has 4 iterations behind it; expected at least as many$"
    with pytest.raises(ConfigError, match=text):
        resumed(SOLVER__MAX_ITER=3)


def test_a_teacher_that_was_moved_is_the_same_one(tmp_path):
    (tmp_path / "teacher.pth").touch()
    old, new = "/gone/teacher.pth", str(tmp_path / "teacher.pth")
    said = resumed(before={"KD__TEACHER__WEIGHTS": old}, KD__TEACHER__WEIGHTS=new)
    assert said == [f"KD.TEACHER.WEIGHTS was '{old}', is '{new}' from iteration 4 on"]


def test_two_files_of_one_name_are_two_teachers(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "teacher.pth").touch()
    old, new = (str(tmp_path / folder / "teacher.pth") for folder in ("a", "b"))
    with pytest.raises(ConfigError, match="KD.TEACHER.WEIGHTS was"):
        resumed(before={"KD__TEACHER__WEIGHTS": old}, KD__TEACHER__WEIGHTS=new)


def test_every_key_of_the_table_is_one_that_a_framework_reads():
    detectron2 = pytest.importorskip("detectron2.config", reason="Detectron2 is not installed")
    from kd2.engine.detectron2 import add_d2_config

    configs = [defaults_of("torchvision"), defaults_of("timm"), add_d2_config(detectron2.get_cfg())]
    known = {name for cfg in configs for name, _ in leaves(cfg)}
    assert [key for key in FATES if not any(name == key or name.startswith(f"{key}.") for name in known)] == []


def test_the_longest_name_of_the_table_counts():
    cfg = add_kd_config(defaults_of("torchvision"))
    assert [fate_of(k, cfg) for k in ("TEST.WINDOW.SIZE", "TEST.PRECISE_BN.NUM_ITER", "MODEL.WEIGHTS", "NEW.KEY")] == [
        APPLIED, REFUSED, FREE, REFUSED,
    ]  # fmt: skip


def trained(lr: float, decay: float, steps: int):
    """An optimizer and its schedule, which halves the rate at step 2, after ``steps`` steps."""
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr, momentum=0.9, weight_decay=decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 if step >= 2 else 1.0)
    for _ in range(steps):
        weight.sum().backward()
        optimizer.step()
        scheduler.step()
    return optimizer, scheduler


def restored(lr: float, decay: float):
    """Those of a config with ``lr`` and ``decay``, resumed after three steps of a run with 0.1 and 0.01."""
    (old, its_schedule), (optimizer, scheduler) = trained(0.1, 0.01, 3), trained(lr, decay, 0)
    rates = rates_of(optimizer)
    optimizer.load_state_dict(old.state_dict())
    scheduler.load_state_dict(its_schedule.state_dict())
    apply_rates(optimizer, scheduler, rates)
    return optimizer, scheduler, old, its_schedule


def test_new_rates_count_and_the_schedule_goes_on():
    optimizer, scheduler, old, _ = restored(lr=0.4, decay=0.02)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["weight_decay"], group["momentum"]) == (0.2, 0.02, 0.9)
    assert optimizer.state_dict()["state"] == old.state_dict()["state"]
    assert (scheduler.last_epoch, scheduler.get_last_lr()) == (3, [0.2])


def test_the_same_rates_leave_the_saved_state_as_it_is():
    optimizer, scheduler, old, its_schedule = restored(lr=0.1, decay=0.01)
    assert optimizer.state_dict() == old.state_dict()
    assert scheduler.state_dict() == its_schedule.state_dict()


def test_a_config_is_compared_as_it_is_saved():
    """YAML makes lists of tuples."""
    cfg = config()
    cfg.SOLVER.STEPS = (1, 2)
    assert yaml.safe_load(cfg.dump())["SOLVER"]["STEPS"] == [1, 2]
    assert resumed(before={"SOLVER__STEPS": (1, 2)}, SOLVER__STEPS=[1, 2]) == []
