"""Average, early end, accumulation and jitter: which keys can be given together."""

import pytest

from kd2.config import assemble, defaults_of, train_size
from kd2.distill import ConfigError

from ..helpers.lightning_runs import merged

TESTED = {"DATASETS": {"TEST": ["val"]}, "TEST": {"BEST": "bbox/AP", "PATIENCE": 2, "EVAL_PERIOD": 5}}


def config(*changes: dict, framework: str = "torchvision"):
    content: dict = {"FRAMEWORK": framework}
    for change in changes:
        content = merged(content, change)
    return assemble(defaults_of(framework), content, "student.yaml")


def test_everything_is_off_by_default():
    cfg = config()
    assert (cfg.MODEL.EMA.ENABLED, cfg.SOLVER.ACCUMULATE, cfg.TEST.PATIENCE) == (False, 1, 0)
    assert not (cfg.INPUT.SCALE_JITTER.ENABLED or any(cfg.INPUT.COLOR_JITTER.values()))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"TEST": {"BEST": ""}}, "^TEST.PATIENCE is 2 and TEST.BEST is empty, expected the metric that it follows"),
        ({"TEST": {"EVAL_PERIOD": 0}}, "^TEST.PATIENCE is 2 and TEST.EVAL_PERIOD is 0, expected evaluations on"),
        (
            {"DATASETS": {"TEST": ["val", "test"]}, "TEST": {"BEST": "test/bbox/AP"}},
            "^TEST.PATIENCE is 2 and TEST.BEST 'test/bbox/AP': .* expected a metric that begins with val/$",
        ),
    ],
)
def test_a_patience_without_evaluations_to_count_is_refused(changes, text):
    with pytest.raises(ConfigError, match=text):
        config(TESTED, changes)


def test_a_patience_may_count_evaluations_in_epochs():
    period = {"TEST": {"EVAL_PERIOD": 0, "EVAL_EPOCHS": 1.0, "BEST": "cls/top1"}}
    assert config(TESTED, period, framework="timm").TEST.PATIENCE == 2


JITTER = {"INPUT": {"SCALE_JITTER": {"ENABLED": True, "SIZE": [96, 128]}}}


def test_two_ways_to_crop_are_refused():
    crop = {"MODEL": {"META_ARCHITECTURE": "PSPNet"}, "INPUT": {"CROP": {"ENABLED": True}}}
    with pytest.raises(ConfigError, match="^INPUT.SCALE_JITTER.ENABLED and INPUT.CROP.ENABLED are both True: "):
        config(JITTER, crop)


def test_a_range_that_goes_backwards_is_refused():
    with pytest.raises(ConfigError, match=r"^INPUT.SCALE_JITTER.RANGE is \[2.0, 0.1\], expected the smaller factor"):
        config(JITTER, {"INPUT": {"SCALE_JITTER": {"RANGE": [2.0, 0.1]}}})
    with pytest.raises(ConfigError, match=r"^INPUT.SCALE_JITTER.RANGE begins at 0.01, which leaves less than a pixel"):
        config(JITTER, {"INPUT": {"SCALE_JITTER": {"RANGE": [0.01, 2.0]}}})


def test_the_size_of_training_images_is_that_of_jitter_or_crop():
    crop = {"MODEL": {"META_ARCHITECTURE": "PSPNet"}, "INPUT": {"CROP": {"ENABLED": True, "SIZE": [32, 48]}}}
    assert [train_size(config(change)) for change in ({}, JITTER, crop)] == [None, (96, 128), (32, 48)]


@pytest.mark.parametrize(("key", "value"), [("DECAY", 1.0), ("DECAY", -0.1), ("ENABLED", 1)])
def test_an_average_that_is_none_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"^MODEL.EMA.{key} is "):
        config({"MODEL": {"EMA": {key: value}}})
