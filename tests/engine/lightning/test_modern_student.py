"""Average, early end, accumulation and jitter on the roads that Lightning trains: detection, segmentation, timm."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import logging
from unittest.mock import Mock

import torch

from kd2.distill import Distiller
from kd2.engine import flow
from kd2.engine.lightning.detection.evaluation import CocoEvaluator
from kd2.runs.folder import FINAL

from ...helpers import contents, tiny_detection, tiny_segmentation
from ...helpers import lightning_runs as runs

METRIC = {"things": "bbox/AP", "stuff": "sem_seg/mIoU", "images": "cls/top1"}
EMA = {"MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.5}}}
JITTER = {"SCALE_JITTER": {"ENABLED": True, "SIZE": [64, 80], "RANGE": [0.8, 1.5]}, "CROP": {"ENABLED": False}}
COLORS = {"BRIGHTNESS": 0.4, "CONTRAST": 0.4, "SATURATION": 0.4}


def everything(task) -> dict:
    """All of it at once."""
    dense = {"INPUT": JITTER | {"COLOR_JITTER": COLORS}} if task.kind != "images" else {}
    if task.kind == "things":
        dense["INPUT"] = {key: value for key, value in dense["INPUT"].items() if key != "CROP"}
    test = {"EVAL_PERIOD": 2, "BEST": METRIC[task.kind], "PATIENCE": 4}
    return runs.merged(runs.merged(EMA, dense), {"SOLVER": {"ACCUMULATE": 2, "MAX_ITER": 5}, "TEST": test})


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """A run of five steps with everything; checkpoints and evaluations after two and four.

    Returns:
        Its config, its folder, and the state of the network that was evaluated last.
    """
    folder, scored = tmp_path_factory.mktemp("modern"), {}
    config = task.write_config(folder, everything(task))
    run = runs.experiment(config)
    predict = run.predict

    def watched(student, batch):
        scored.update({name: x.clone() for name, x in student.state_dict().items()})
        return predict(student, batch)

    run.predict = watched
    flow.run(run)
    return config, folder / "out", scored


def test_a_resumed_run_ends_alike_bit_for_bit(whole, tmp_path):
    config, folder, _ = whole
    runs.resumed(config, folder, 2, tmp_path / "out")
    found = runs.different(runs.checkpoint(folder), runs.checkpoint(tmp_path / "out"))
    noted = (".trainer.loops.", ".trainer.epoch", ".kd2.best.value")  # that of model_best.pth, which lies elsewhere
    assert [name for name in found if not name.startswith(noted)] == [".kd2.config"]


def test_the_model_is_the_average_and_the_raw_weights_lie_beside_it(whole):
    content = runs.checkpoint(whole[1])
    model, raw = content["model"], content["kd2"]["raw_model"]
    assert model.keys() == raw.keys()
    assert sum(not torch.equal(model[name], raw[name]) for name in model if name.endswith("weight")) > 5


def test_the_plain_network_takes_the_average(whole, task):
    task.plain().load_state_dict(runs.checkpoint(whole[1])["model"], strict=True)


def test_the_average_is_what_the_run_scores(whole):
    _, folder, scored = whole
    assert runs.same(scored, runs.checkpoint(folder)["model"]) == []


def test_everything_that_counts_iterations_counts_steps_of_the_optimizer(whole):
    assert sorted(path.name for path in whole[1].glob("model_0*")) == ["model_0000002.pth", "model_0000004.pth"]
    content = runs.checkpoint(whole[1])
    assert (content["iteration"], content["scheduler"]["last_epoch"]) == (4, 5)


def test_without_the_average_a_run_has_the_same_raw_weights(whole, task, tmp_path):
    config, folder, _ = whole
    runs.train(config, "MODEL.EMA.ENABLED", "False", "OUTPUT_DIR", str(tmp_path / "out"))
    raw, plain = runs.checkpoint(folder)["kd2"]["raw_model"], runs.checkpoint(tmp_path / "out")
    assert runs.same(raw, plain["model"]) == [] and "raw_model" not in plain["kd2"]


CHANNELS_LAST = ["MODEL.CHANNELS_LAST", "True", "KD.TEACHER.CHANNELS_LAST", "True"]


def test_the_layout_is_that_of_both_networks_and_changes_no_more_than_rounding(task, tmp_path):
    config = task.write_config(tmp_path, {"SOLVER": {"MAX_ITER": 1}, "MODEL": {"CHANNELS_LAST": False}})
    losses = []
    for options in ([], CHANNELS_LAST):
        distiller = runs.distiller(config, *options).train()
        found = [contents.channels_last(model) for model in (distiller.student, distiller.teacher.model)]
        assert found == [bool(options)] * 2
        losses.append(distiller(runs.first_batch(config)))
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert losses[1][name].item() == pytest.approx(loss.item(), rel=1e-3), name


def test_a_compiled_teacher_teaches_the_same(task, tmp_path, monkeypatch):
    compiled, compile = [], torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compiled.append(f.__self__) or compile(f, backend="eager"))
    config = task.write_config(tmp_path, {"SOLVER": {"MAX_ITER": 1}})
    plain, losses = runs.distiller(config).train(), []
    whole = runs.distiller(config, "KD.TEACHER.COMPILE", "True").train()
    assert [part for part in whole.teacher.model.modules() if part in compiled] == compiled != []
    for distiller in (plain, whole):
        losses.append(distiller(runs.first_batch(config)))
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert losses[1][name].item() == pytest.approx(loss.item(), rel=1e-4), name


def test_a_loss_knows_step_and_batch(task, tmp_path, monkeypatch):
    seen, forward = [], Distiller.forward

    def watched(self, batch):
        if self.training:
            seen.append((self.iteration, self.batch))
        return forward(self, batch)

    monkeypatch.setattr(Distiller, "forward", watched)
    runs.train(task.write_config(tmp_path, {"SOLVER": {"ACCUMULATE": 2, "MAX_ITER": 2}}))
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_share_is_measured_over_steps(data, teacher, tmp_path):
    loss = {"imitation": {"WEIGHT": None, "SHARE": 0.5, "CALIBRATE_ITERS": 2}}
    changes = tiny_detection.distilled(teacher, {"KD": {"LOSSES": loss}, "SOLVER": {"ACCUMULATE": 3, "MAX_ITER": 3}})
    runs.train(tiny_detection.write_config(tmp_path, data, runs.merged(changes, {"SOLVER": {"STEPS": []}})))
    assert runs.checkpoint(tmp_path / "out")["kd2"]["shares"]["imitation.seen"] == 9


def test_two_equal_batches_are_one_step(tmp_path):
    """One picture, seen alike every time: the mean gradient is that of one batch, exactly."""
    tiny_detection.write_data(tmp_path / "data", [(64, 80)])
    alike = {"INPUT": {"MIN_SIZE_TRAIN": [64], "RANDOM_FLIP": "none"}, "SOLVER": {"IMS_PER_BATCH": 1, "MAX_ITER": 3}}
    config = tiny_detection.write_config(tmp_path, tmp_path / "data", runs.merged(alike, {"SOLVER": {"STEPS": []}}))
    runs.train(config)
    runs.train(config, "SOLVER.ACCUMULATE", "2", "OUTPUT_DIR", str(tmp_path / "twice"))
    differ = runs.same(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "twice"))
    assert all("running" in name or "tracked" in name for name in differ)  # of the norms, which saw twice as many


@pytest.fixture
def scored(tmp_path, data, monkeypatch):
    """Trains a detector, for at most 8 steps, whose evaluations behind every step give the scores of a list.

    An error among them is raised.
    """
    solver = {"MAX_ITER": 8, "STEPS": [], "WARMUP_ITERS": 0, "CHECKPOINT_PERIOD": 1}
    test = {"EVAL_PERIOD": 1, "BEST": "bbox/AP", "PATIENCE": 2}
    config = tiny_detection.write_config(
        tmp_path, data, {"SOLVER": solver, "DATASETS": {"TEST": ["tiny"]}, "TEST": test}
    )

    def train(values: list[float | Exception], *options: str, **changes) -> list[float | Exception]:
        evaluate = Mock(side_effect=[x if isinstance(x, Exception) else {"bbox/AP": x} for x in values])
        monkeypatch.setattr(CocoEvaluator, "evaluate", evaluate)
        runs.train(config, *options, **changes)
        return values[evaluate.call_count :]

    return train


RISING, FALLING = [1.0, 2.0, 3.0], [2.5, 2.0]


def test_a_run_ends_when_the_metric_got_no_better_so_often(scored, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert scored([*RISING, *FALLING, 2.0]) == []  # the last one is the final evaluation
    assert runs.checkpoint(tmp_path / "out")["iteration"] == 4
    text = "TEST.PATIENCE: bbox/AP was not above 3 in 2 evaluations: the training ends after iteration 4"
    assert text in caplog.messages
    best = torch.load(tmp_path / "out" / "model_best.pth", weights_only=True)
    assert best["iteration"] == 2


def test_a_run_that_ended_early_stays_finished(scored, tmp_path):
    scored([*RISING, *FALLING, 2.0])
    before = runs.checkpoint(tmp_path / "out")
    assert scored([2.0], resume=True) == []
    assert runs.different(before, runs.checkpoint(tmp_path / "out")) == []


def test_a_run_killed_before_its_final_checkpoint_stays_finished(scored, tmp_path):
    scored([*RISING, *FALLING, 2.0])
    (tmp_path / "out" / FINAL).unlink()
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000005.pth")
    assert scored([2.0], resume=True) == []
    assert runs.checkpoint(tmp_path / "out")["iteration"] == 4


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_run_ends_where_the_whole_one_did(scored, tmp_path, step):
    values = [*RISING, *FALLING, 2.0]
    scored(values)
    whole = runs.checkpoint(tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text(f"model_{step:07d}.pth")
    assert scored(values[step:], resume=True) == []
    noted = (".trainer.loops.", ".trainer.epoch", ".kd2.best.value")
    found = runs.different(whole, runs.checkpoint(tmp_path / "out"))
    assert [name for name in found if not name.startswith(noted)] == []


def test_an_evaluation_that_was_cut_off_is_made_up_for(scored, tmp_path):
    options = ["TEST.PATIENCE", "0", "SOLVER.MAX_ITER", "3"]
    with pytest.raises(RuntimeError, match="lost"):
        scored([1.0, RuntimeError("lost")], *options)
    assert scored([9.0, 2.0, 2.0], *options, resume=True) == []
    assert torch.load(tmp_path / "out" / "model_best.pth", weights_only=True)["iteration"] == 1


def test_more_patience_lets_a_run_go_on(scored, tmp_path):
    scored([*RISING, *FALLING, 2.0])
    assert scored([9.0, 8.0, 7.0, 7.0], "TEST.PATIENCE", "3", resume=True) == []
    assert runs.checkpoint(tmp_path / "out")["iteration"] == 7


def test_the_jitter_decides_the_sizes_of_detection(tmp_path, data):
    config = tiny_detection.write_config(tmp_path, data, {"INPUT": {"SCALE_JITTER": JITTER["SCALE_JITTER"]}})
    batches = [batch for batch, _ in zip(runs.batches(config), range(8))]
    sizes = [tuple(x.shape[1:]) for batch in batches for x in batch.images]
    assert all(height <= 64 and width <= 80 for height, width in sizes) and len(set(sizes)) > 5
    targets = [t for batch in batches for t in batch.targets]
    assert any(len(t["boxes"]) == 2 for t in targets)
    for (height, width), target in zip(sizes, targets):
        boxes = target["boxes"]
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()


def test_boxes_are_those_of_what_the_crop_left_of_the_masks(tmp_path, data):
    rcnn = {"MODEL": {"META_ARCHITECTURE": "MaskRCNN"}, "INPUT": {"SCALE_JITTER": JITTER["SCALE_JITTER"]}}
    config = tiny_detection.write_config(tmp_path, data, rcnn)
    for batch, _ in zip(runs.batches(config), range(6)):
        for target in batch.targets:
            for box, mask in zip(target["boxes"], target["masks"], strict=True):
                rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
                ends = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert box.tolist() == [float(x) for x in ends]


def test_the_jitter_crops_and_pads_pixels_to_one_size(tmp_path, semantic_data):
    config = tiny_segmentation.write_config(tmp_path, semantic_data, {"INPUT": JITTER})
    for batch, _ in zip(runs.batches(config), range(4)):
        assert batch.size == (64, 80) == tuple(batch.labels.shape[1:])
        for image, labels in zip(batch.images, batch.labels):
            assert (labels[image.shape[1] :] == 255).all() and (labels[:, image.shape[2] :] == 255).all()


def test_colors_change_and_nothing_else_does(tmp_path, data):
    config = tiny_detection.write_config(tmp_path, data)
    plain = runs.first_batch(config, "INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", "[64]")
    options = [f"INPUT.COLOR_JITTER.{key}" for key in COLORS]
    given = [word for option in options for word in (option, "0.5")]
    other = runs.first_batch(config, "INPUT.RANDOM_FLIP", "none", "INPUT.MIN_SIZE_TRAIN", "[64]", *given)
    assert all(a.shape == b.shape and not torch.equal(a, b) for a, b in zip(plain.images, other.images))
    assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(plain.targets, other.targets))
