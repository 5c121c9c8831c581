"""Training, evaluation, moving average, clean statistics, resuming."""

import itertools
import json

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import timm
import torch
import torch.nn.functional as F
from fvcore.nn.precise_bn import get_bn_modules

from kd2 import engine
from kd2.data.classification.batches import Batch
from kd2.distill import ConfigError
from kd2.engine.lightning.classification.evaluation import ClassificationEvaluator, Logits
from kd2.engine.preflight import loss_rows, problems

from ....helpers import lightning_runs as runs
from ....helpers import tiny_classification as tiny

TESTED = {"DATASETS": {"TEST": ["tiny_test"]}, "TEST": {"IMS_PER_BATCH": 4}}
EVERY_LOSS = {
    "KD": {
        "STUDENT": {"TAPS": ["logits=@vector", "last=layer4"]},
        "TEACHER": {"TAPS": ["logits=@vector", "last=layer4"]},
        "LOSSES": {
            "dkd": {"TAP": "logits", "TEMPERATURE": 4.0},
            "dist": {"TAP": "logits", "WEIGHT": 2.0},
            "mgd": {"TAP": "last", "WEIGHT": 0.001, "RATIO": 0.5},
            "channels": {"TYPE": "mgd", "TAP": "last", "WEIGHT": 0.001, "RATIO": 0.15, "UNIT": "channel"},
            "hint": {"TAP": "last", "WEIGHT": 0.1, "REDUCTION": "mean"},
            "tat": {"TAP": "last", "WEIGHT": 0.1, "PATCH": [1, 1]},
        },
    },
    "INPUT": {"SIZE": 64},
}


@pytest.fixture(scope="module")
def data(pictures):
    return pictures


def by_hand(config: str, steps: int) -> dict[str, torch.Tensor]:
    """The weights after a loop that anybody would write, with the same initial weights and batches."""
    experiment = runs.experiment(config)
    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(experiment.build_student().module.state_dict())
    norms = [p for m in get_bn_modules(model.train()) for p in m.parameters()]
    others = [p for p in model.parameters() if all(p is not q for q in norms)]
    optimizer = torch.optim.SGD([{"params": others, "weight_decay": 1e-4}, {"params": norms}], 0.01, 0.9, nesterov=True)
    torch.manual_seed(experiment.cfg.SEED)
    for batch in itertools.islice(runs.batches(config), steps):
        optimizer.zero_grad()
        F.cross_entropy(model(experiment.normalize(batch.images)), batch.labels).backward()
        optimizer.step()
    return model.state_dict()


CONSTANT = {"SOLVER": {"WARMUP_ITERS": 0, "LR_SCHEDULER_NAME": "WarmupMultiStepLR"}}


def test_without_losses_training_equals_a_plain_loop(tmp_path, data):
    config = tiny.write_config(tmp_path, data, CONSTANT)
    runs.train(config)
    assert runs.same(runs.weights(tmp_path / "out"), by_hand(config, 6)) == []


def test_with_weight_0_training_equals_a_plain_loop(tmp_path, data, class_teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(class_teacher, CONSTANT))
    runs.train(config, "KD.LOSSES.logits.WEIGHT", "0")
    plain = tiny.write_config(tmp_path, data, CONSTANT, "plain")
    assert runs.same(runs.weights(tmp_path / "out"), by_hand(plain, 6)) == []


def interrupted(tmp_path, data, changes: dict) -> list[str]:
    """What differs between the checkpoints of a whole run of 6 iterations and of one resumed at iteration 3."""
    whole = tiny.write_config(tmp_path, data, changes | {"OUTPUT_DIR": str(tmp_path / "whole")}, "whole")
    runs.train(whole)
    runs.resumed(whole, tmp_path / "whole", 3, tmp_path / "out")
    return runs.different(runs.checkpoint(tmp_path / "whole"), runs.checkpoint(tmp_path / "out"))


def test_a_resumed_run_ends_alike_with_moving_average_and_clean_statistics(tmp_path, data, class_teacher):
    extras = TESTED | {"MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.9}}}
    extras = runs.merged(extras, {"TEST": {"PRECISE_BN": {"ENABLED": True, "NUM_ITER": 2}, "EVAL_PERIOD": 2}})
    assert interrupted(tmp_path, data, tiny.distilled(class_teacher, extras, "funmatch")) == [".kd2.config"]


def test_a_resumed_run_with_adamw_and_every_loss_ends_alike(tmp_path, data, class_teacher):
    larger = {"KD": {"TEACHER": {"OPTS": ["INPUT.SIZE", "64"]}}, "SOLVER": {"OPTIMIZER": "AdamW"}}
    every = runs.merged(EVERY_LOSS, larger)
    assert interrupted(tmp_path, data, tiny.distilled(class_teacher, every)) == [".kd2.config"]


def test_evaluation_reports_accuracy_agreement_and_divergence(tmp_path, data, class_teacher):
    scores = runs.train(tiny.write_config(tmp_path, data, tiny.distilled(class_teacher, TESTED)))
    assert set(scores) == {"cls/top1", "cls/agreement", "cls/KL"}


def test_losses_that_stop_leave_the_scores_beside_the_teacher(tmp_path, data, class_teacher):
    """Also where nothing was evaluated before the stop, or the run is resumed behind it."""
    stopping = {"KD": {"LOSSES": {"logits": {"STOP_ITER": 2}}}, "TEST": {"BEST": "cls/agreement", "EVAL_PERIOD": 5}}
    config = tiny.write_config(tmp_path, data, tiny.distilled(class_teacher, runs.merged(TESTED, stopping)))
    scores = runs.train(config, "OUTPUT_DIR", str(tmp_path / "whole"))
    assert set(scores) == {"cls/top1", "cls/agreement", "cls/KL"}
    runs.resumed(config, tmp_path / "whole", 3, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == scores


def labeled(labels: list[int]) -> Batch:
    """A batch of which an evaluator sees the labels."""
    return Batch(torch.zeros(len(labels), 3, 1, 1), None, torch.tensor(labels), None)


def test_a_copy_of_the_teacher_agrees_with_it():
    evaluator, logits = ClassificationEvaluator(classes=3), torch.eye(3)
    evaluator.process(labeled([0, 1, 1]), Logits(logits, logits.clone()))
    assert evaluator.evaluate() == pytest.approx({"cls/top1": 200 / 3, "cls/agreement": 100.0, "cls/KL": 0.0})


def test_five_guesses_count_with_more_than_five_classes():
    evaluator = ClassificationEvaluator(classes=6)
    evaluator.process(labeled([0, 4, 5, 5]), Logits(torch.arange(6.0, 0, -1).expand(4, 6), None))
    assert evaluator.evaluate() == pytest.approx({"cls/top1": 25.0, "cls/top5": 50.0})


def test_eval_only_gives_the_scores_of_the_run(tmp_path, data):
    config = tiny.write_config(tmp_path, data, TESTED)
    scores = runs.train(config)
    again = runs.train(config, "MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"), eval_only=True)
    assert scores == again


def test_epochs_and_scores_stand_in_the_log(tmp_path, data):
    runs.train(tiny.write_config(tmp_path, data, TESTED), "TEST.EVAL_PERIOD", "3")
    lines = (tmp_path / "out" / "csv" / "version_0" / "metrics.csv").read_text().splitlines()
    rows = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
    seen = [float(row["epoch"]) for row in rows if row["cls/top1"]]
    assert seen[:2] == pytest.approx([3 * 4 / 14, 6 * 4 / 14])


def test_without_labels_nothing_depends_on_them(tmp_path, data, class_teacher):
    """Training images of other classes will do."""
    kd = {"TASK_WEIGHT": 0.0, "LOSSES": {"logits": {"WEIGHT": 1.0}}}
    unlabeled = {"KD": kd, "MODEL": {"CLASSES": list(tiny.CLASSES)}}
    config = tiny.write_config(tmp_path, data, tiny.distilled(class_teacher, unlabeled))
    runs.train(config)
    content = dict(np.load(data / "train.npz"))
    content["label"] = content["label"] * 0
    content["name"] = np.array([f"food/{i}.png" for i in range(tiny.COUNT)], np.bytes_)
    np.savez(tmp_path / "food.npz", **content)
    runs.train(config, "DATASETS.CUSTOM.tiny.NPZ", str(tmp_path / "food.npz"), "OUTPUT_DIR", str(tmp_path / "food"))
    assert runs.same(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "food")) == []


def test_neither_labels_nor_losses_is_refused(tmp_path, data):
    with pytest.raises(ConfigError, match="^KD.TASK_WEIGHT is 0 and no loss of KD.LOSSES counts"):
        runs.train(tiny.write_config(tmp_path, data), "KD.TASK_WEIGHT", "0.0")


@pytest.mark.parametrize(
    ("args", "told"),
    [({"in_chans": 1}, "test_resnet does not run then"), ({"features_only": True}, ".*has no attribute")],
)
def test_arguments_that_make_no_classifier_of_images_are_refused(tmp_path, data, args, told):
    with pytest.raises(ConfigError, match=rf"^MODEL.ARGS {{.*}}: .*{told}"):
        runs.train(tiny.write_config(tmp_path, data, {"MODEL": {"ARGS": args}}))


def test_without_labels_a_share_has_nothing_to_be_of(tmp_path, data, class_teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(class_teacher))
    with pytest.raises(
        ConfigError, match="^KD.LOSSES.logits has a SHARE .* and KD.TASK_WEIGHT is 0: .* give a WEIGHT$"
    ):
        runs.train(config, "KD.TASK_WEIGHT", "0.0")


def test_the_exported_average_lags_behind_the_student(tmp_path, data):
    config = tiny.write_config(tmp_path, data, {"SOLVER": {"WARMUP_ITERS": 0}})
    runs.train(
        config,
        "MODEL.EMA.ENABLED",
        "True",
        "MODEL.EMA.WARMUP",
        "False",
        "MODEL.EMA.DECAY",
        "0.5",
        "SOLVER.CHECKPOINT_PERIOD",
        "1",
    )
    files = [runs.checkpoint(tmp_path / "out", step) for step in range(1, 7)]
    raw = [content["kd2"]["raw_model"]["fc.weight"] for content in files]
    average = raw[0]
    for later in raw[1:]:
        average = average.lerp(later, 0.5)
    torch.testing.assert_close(runs.weights(tmp_path / "out")["fc.weight"], average)


def test_clean_statistics_are_those_of_central_crops(tmp_path, data):
    """The first norm layer's mean is that of its input over all training images, seen whole."""
    config = tiny.write_config(tmp_path, data, TESTED)
    runs.train(config, "TEST.PRECISE_BN.ENABLED", "True", "TEST.IMS_PER_BATCH", "16")
    experiment = runs.experiment(config)
    model = timm.create_model("test_resnet", num_classes=3)
    model.load_state_dict(runs.checkpoint(tmp_path / "out")["model"])
    (images,) = experiment.load_data("TRAIN")
    crops = torch.stack(
        [
            F.interpolate(images.pixels(i)[None, :, :, 2:38], (32, 32), mode="bilinear", antialias=True)[0]
            for i in range(len(images))
        ]
    )
    first = model.conv1(experiment.normalize(crops.float() / 255))
    torch.testing.assert_close(model.bn1.running_mean, first.mean((0, 2, 3)), atol=1e-4, rtol=1e-3)


def test_clean_statistics_do_not_change_training(tmp_path, data):
    config = tiny.write_config(tmp_path, data, TESTED)
    runs.train(config)
    runs.train(config, "TEST.PRECISE_BN.ENABLED", "True", "TEST.EVAL_PERIOD", "2", "OUTPUT_DIR", str(tmp_path / "b"))
    a, b = runs.weights(tmp_path / "out"), runs.weights(tmp_path / "b")
    assert [name for name in runs.same(a, b) if "running" not in name and "tracked" not in name] == []


def test_a_dry_run_finds_every_loss_at_work(tmp_path, data, class_teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(class_teacher, mode="funmatch"))
    with engine.dry_run(config, []) as found:
        assert problems(loss_rows(found)) == []


@pytest.mark.parametrize(
    ("compared", "known", "unknown"), [("True", "cls/agreement", "cls/top11"), ("False", "cls/top1", "cls/agreement")]
)
def test_a_dry_run_knows_the_metrics_of_the_run(tmp_path, data, class_teacher, compared, known, unknown):
    config = tiny.write_config(tmp_path, data, tiny.distilled(class_teacher, TESTED))
    with engine.dry_run(config, ["TEST.TEACHER", compared, "TEST.BEST", known]):
        pass
    with pytest.raises(ConfigError, match=f"^TEST.BEST is '{unknown}', which no evaluation gives; .*cls/top1"):
        with engine.dry_run(config, ["TEST.TEACHER", compared, "TEST.BEST", unknown]):
            pass


def test_a_model_that_timm_does_not_have(tmp_path, data):
    with pytest.raises(ConfigError, match="^MODEL.NAME: timm has no 'resnet19'; did you mean resnet1"):
        runs.train(tiny.write_config(tmp_path, data), "MODEL.NAME", "resnet19")


def test_the_cifar_networks_are_models_of_timm():
    assert timm.create_model("kd2_resnet20", num_classes=7)(torch.rand(1, 3, 32, 32)).shape == (1, 7)
