"""What a finished run leaves: a checkpoint for plain torchvision, logs, metrics."""

import csv

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2.config import defaults_of, merge, read

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny
from ....helpers.tiny_tasks import plain_retinanet


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, teacher):
    """Folder and metrics of a distilled ResNet-18 run, evaluated on two test sets and on the way."""
    folder = tmp_path_factory.mktemp("final")
    custom = {"again": {"JSON": str(data / "coco.json"), "IMAGES": str(data / "images")}}
    config = tiny.write_config(
        folder,
        data,
        tiny.distilled(
            teacher,
            {
                "MODEL": {"BACKBONE": {"NAME": "resnet18"}, "RETINANET": {"NUM_CONVS": 4, "SCORE_THRESH_TEST": 0.0}},
                "DATASETS": {"CUSTOM": custom, "TEST": ["tiny", "again"]},
                "TEST": {"EVAL_PERIOD": 2},
                "SOLVER": {"MAX_ITER": 20, "CHECKPOINT_PERIOD": 100},
            },
        ),
    )
    return folder, runs.train(config)


@pytest.fixture(scope="module")
def content(finished):
    return torch.load(finished[0] / "out" / "model_final.pth", weights_only=True)


@pytest.fixture(scope="module")
def plain(content):
    """The checkpoint in a RetinaNet that torchvision's constructors made."""
    model = plain_retinanet()
    model.score_thresh, model.detections_per_img, model.transform._skip_resize = 0.0, 100, False
    model.load_state_dict(content["model"], strict=True)
    return model.eval()


def test_plain_torchvision_gives_the_same_detections(plain, finished, content):
    student = runs.experiment(str(finished[0] / "student.yaml")).build_student().module.eval()
    student.load_state_dict(content["model"])
    image = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))
    ours, theirs = student([image])[0], plain([image])[0]
    assert len(theirs["boxes"]) == 100
    torch.testing.assert_close(ours, theirs)


def test_the_adapters_lie_apart(content):
    assert all(name.startswith("imitation.adapters.") for name in content["adapters"]) and content["adapters"]


def test_several_test_sets_are_told_apart(finished):
    assert {name.split("/")[0] for name in finished[1]} == {"tiny", "again"}


def test_equal_test_sets_have_equal_scores(finished):
    assert finished[1]["tiny/bbox/AP"] == finished[1]["again/bbox/AP"]


def test_evaluating_the_checkpoint_repeats_the_scores(finished):
    folder, metrics = finished
    weights = str(folder / "out" / "model_final.pth")
    again = runs.train(str(folder / "student.yaml"), "MODEL.WEIGHTS", weights, eval_only=True)
    assert again == pytest.approx(metrics, nan_ok=True)


def test_the_runs_config_is_kept_and_complete(finished):
    kept = merge(defaults_of("torchvision"), read(str(finished[0] / "out" / "config.yaml")))
    assert (kept.SOLVER.MAX_ITER, kept.SEED) == (20, 7)


@pytest.mark.parametrize("column", ["loss_imitation", "loss_classification", "total_loss", "bbox/AP"])
def test_losses_and_metrics_are_logged(finished, column):
    with open(finished[0] / "out" / "csv" / "version_0" / "metrics.csv") as file:
        assert any(row.get(column) for row in csv.DictReader(file))


def test_tensorboard_finds_its_events(finished):
    assert list((finished[0] / "out").glob("events.out.tfevents.*"))


def test_a_final_checkpoint_initializes_another_run(finished, content):
    folder, _ = finished
    options = ["MODEL.WEIGHTS", str(folder / "out" / "model_final.pth"), "KD.LOSSES", "{}"]
    student = runs.distiller(str(folder / "student.yaml"), *options).student
    assert runs.same(student.state_dict(), content["model"]) == []


def test_initial_weights_may_lack_parts(finished, content, tmp_path):
    part = {k: v for k, v in content["model"].items() if not k.startswith("head.")}
    torch.save(part, tmp_path / "part.pth")
    options = ["MODEL.WEIGHTS", str(tmp_path / "part.pth"), "KD.LOSSES", "{}"]
    state = runs.distiller(str(finished[0] / "student.yaml"), *options).student.state_dict()
    assert runs.same({k: v for k, v in state.items() if k in part}, part) == []
