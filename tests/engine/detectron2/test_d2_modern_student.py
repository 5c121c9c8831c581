"""Average, early end, accumulation and jitter on the road of Detectron2: detection, instances, segmentation."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import itertools
import json
import os
from collections.abc import Callable
from unittest.mock import Mock

import torch
import yaml
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from kd2 import engine
from kd2.config import merge
from kd2.data.seeding import seeded
from kd2.distill import ConfigError, Distiller
from kd2.engine.detectron2.config import add_d2_config
from kd2.engine.detectron2.data import train_loader
from kd2.engine.detectron2.data.detection import PictureMapper
from kd2.engine.detectron2.trainer import Trainer
from kd2.engine.preflight import loss_rows, problems

from ...helpers import contents
from ...helpers.d2_semantic import SEM_SEG_FPN, semantic_config, semantic_pair, write_semantic
from ...helpers.d2_tiny import (
    FASTER_RCNN,
    different,
    load_config,
    merged,
    previous,
    train,
    weights,
    write_config,
    write_pair,
)

EMA = {"MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.5}}}
JITTER = {"ENABLED": True, "SIZE": [64, 80], "RANGE": [0.8, 1.5]}
COLORS = {"BRIGHTNESS": 0.4, "CONTRAST": 0.4, "SATURATION": 0.4}
CONSTANT = {"SOLVER": {"WARMUP_ITERS": 0, "STEPS": []}}
INPUT = {"INPUT": {"SCALE_JITTER": JITTER, "COLOR_JITTER": COLORS, "CROP": {"ENABLED": False}}}


def everything(data_set: str, metric: str) -> dict:
    """All of it at once."""
    test = {"EVAL_PERIOD": 2, "BEST": metric, "PATIENCE": 4}
    solver = {"ACCUMULATE": 2, "MAX_ITER": 5, "WARMUP_ITERS": 0, "STEPS": []}
    return merged(merged(EMA, INPUT), {"SOLVER": solver, "TEST": test, "DATASETS": {"TEST": [data_set]}})


@pytest.fixture(scope="module", params=["detection", "segmentation"])
def whole(request, data, pixels, tmp_path_factory):
    """A run of five steps with everything; checkpoints and evaluations after two and four.

    Returns:
        Its config, its folder, and the state of the network that was evaluated last.
    """
    folder, scored = tmp_path_factory.mktemp("modern"), {}
    if request.param == "detection":
        config = write_pair(folder, data, everything("tiny", "bbox/AP"))
    else:
        config = semantic_pair(folder, pixels, everything("shapes", "sem_seg/mIoU"))
    test = Trainer.test.__func__

    def watched(cls, cfg, model, evaluators=None):
        scored.update({name: x.clone() for name, x in model.state_dict().items()})
        return test(cls, cfg, model, evaluators)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "test", classmethod(watched))
        train(config)
    return config, folder / "out", scored


def content(folder, name: str = "model_final.pth") -> dict:
    return torch.load(folder / name, weights_only=True)


def test_a_resumed_run_ends_alike_bit_for_bit(whole, tmp_path):
    config, folder, _ = whole
    (tmp_path / "model_0000001.pth").write_bytes((folder / "model_0000001.pth").read_bytes())
    previous(tmp_path)
    torch.manual_seed(12345)
    train(config, "OUTPUT_DIR", str(tmp_path), resume=True)
    found = contents.different(content(folder), content(tmp_path))
    assert set(found) - {".kd2.best.value"} == {".kd2.config"}  # that of model_best.pth, which lies elsewhere


def test_the_model_is_the_average_and_the_raw_weights_lie_beside_it(whole):
    saved = content(whole[1])
    model, raw = saved["model"], saved["kd2"]["raw_model"]
    assert model.keys() == raw.keys()
    assert sum(not torch.equal(model[name], raw[name]) for name in model if name.endswith("weight")) > 5


def test_the_average_is_what_the_run_scores(whole):
    _, folder, scored = whole
    assert different(scored, content(folder)["model"]) == []


def test_everything_that_counts_iterations_counts_steps_of_the_optimizer(whole):
    names = sorted(path.name for path in whole[1].glob("model_0*"))
    assert names == ["model_0000001.pth", "model_0000003.pth"]
    assert content(whole[1])["iteration"] == 4


def test_without_the_average_a_run_has_the_same_raw_weights(whole, tmp_path):
    config, folder, _ = whole
    train(config, "MODEL.EMA.ENABLED", "False", "OUTPUT_DIR", str(tmp_path))
    plain = content(tmp_path)
    assert different(content(folder)["kd2"]["raw_model"], plain["model"]) == [] and "raw_model" not in plain["kd2"]


def test_plain_detectron2_takes_students_config_and_average(whole):
    """The keys of ``get_cfg()`` alone, where the student is made of Detectron2's parts and kd2's backbone."""
    _, folder, _ = whole
    own = yaml.safe_load((folder / "student.yaml").read_text())
    assert "EMA" not in own["MODEL"] and "SCALE_JITTER" not in own["INPUT"]
    model = build_model(merge(add_d2_config(get_cfg()), own))
    DetectionCheckpointer(model).load(own["MODEL"]["WEIGHTS"])
    assert different(model.state_dict(), content(folder)["model"]) == []


CHANNELS_LAST = ["MODEL.CHANNELS_LAST", "True", "KD.TEACHER.CHANNELS_LAST", "True"]


def test_the_layout_is_that_of_both_networks_and_no_key_of_the_student(retinanets, tmp_path):
    with engine.dry_run(retinanets, CHANNELS_LAST) as found:
        assert contents.channels_last(found.distiller.student)
        assert contents.channels_last(found.distiller.teacher.model)
        assert problems(loss_rows(found)) == []
    train(retinanets, *CHANNELS_LAST, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "last"))
    train(retinanets, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "first"))
    assert "CHANNELS_LAST" not in (tmp_path / "last" / "student.yaml").read_text()
    first, last = weights(tmp_path / "first"), weights(tmp_path / "last")
    for name, x in first.items():
        torch.testing.assert_close(last[name], x, rtol=1e-3, atol=1e-4, msg=name)


def test_a_loss_knows_step_and_batch(retinanets, tmp_path, monkeypatch):
    seen, forward = [], Distiller.forward

    def watched(self, batch):
        if self.training:
            seen.append((self.iteration, self.batch))
        return forward(self, batch)

    monkeypatch.setattr(Distiller, "forward", watched)
    options = ["SOLVER.ACCUMULATE", "2", "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path)]
    train(retinanets, *options)
    assert seen == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_a_share_is_measured_over_steps(retinanets, tmp_path):
    loss = "{'imitation': {'SHARE': 0.5, 'CALIBRATE_ITERS': 2}}"
    options = ["KD.LOSSES", loss, "SOLVER.ACCUMULATE", "2", "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", str(tmp_path)]
    train(retinanets, *options)
    assert content(tmp_path)["kd2"]["shares"]["imitation.seen"] == 6


def test_two_equal_batches_are_one_step(tmp_path):
    """One picture, seen alike every time: the mean gradient is that of one batch, exactly."""
    write_semantic(tmp_path / "data", [(48, 64)])
    alike = {"INPUT": {"MIN_SIZE_TRAIN": [48], "MIN_SIZE_TRAIN_SAMPLING": "choice", "RANDOM_FLIP": "none"}}
    one = {"SOLVER": {"IMS_PER_BATCH": 1}}
    config = semantic_config(tmp_path, tmp_path / "data", SEM_SEG_FPN, CONSTANT, alike, one)
    train(config)
    train(config, "SOLVER.ACCUMULATE", "2", "OUTPUT_DIR", str(tmp_path / "twice"))
    differ = different(weights(tmp_path / "out"), weights(tmp_path / "twice"))
    assert all("running" in name or "tracked" in name for name in differ)  # of the norms, which saw twice as many


MIXED = {"SOLVER": {"AMP": {"ENABLED": True, "PRECISION": "bf16"}}}


def output_dtypes(work: Callable[[], None]) -> dict[bool, set[torch.dtype]]:
    """Whether in train mode -> the numbers that convolutions gave while ``work`` ran."""
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}

    def see(module, _inputs, output):
        if isinstance(module, torch.nn.Conv2d):
            seen[module.training].add(output.dtype)

    with torch.nn.modules.module.register_module_forward_hook(see):
        work()
    return seen


def test_the_cpu_trains_in_bf16_and_evaluates_in_float32(tmp_path, data):
    config = write_config(tmp_path, data, CONSTANT, MIXED, {"DATASETS": {"TEST": ["tiny"]}})
    seen = output_dtypes(lambda: train(config))
    assert seen == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {x.dtype for x in weights(tmp_path / "out").values() if x.is_floating_point()} == {torch.float32}
    logged = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[0])
    assert 0 < logged["total_loss"] < 100


def test_a_bf16_run_goes_on_bit_for_bit(tmp_path, data):
    config = write_pair(tmp_path, data, CONSTANT, MIXED, {"SOLVER": {"MAX_ITER": 3, "CHECKPOINT_PERIOD": 2}})
    train(config)
    straight = weights(tmp_path / "out")
    train(config, "OUTPUT_DIR", str(tmp_path / "twice"), "SOLVER.MAX_ITER", "2")
    train(config, "OUTPUT_DIR", str(tmp_path / "twice"), resume=True)
    assert different(straight, weights(tmp_path / "twice")) == []


def test_a_dry_run_computes_in_the_precision_of_the_run(tmp_path, data):
    config = write_pair(tmp_path, data, MIXED)

    def look() -> None:
        with engine.dry_run(config, []) as found:
            assert problems(loss_rows(found)) == []

    assert torch.bfloat16 in output_dtypes(look)[True]


def test_fp16_is_refused_on_the_cpu(tmp_path, data):
    config = write_config(tmp_path, data, MIXED)
    text = "SOLVER.AMP.PRECISION is 'fp16', which needs a CUDA device; bf16 trains on the CPU too"
    with pytest.raises(ConfigError, match=text):
        load_config(config, ["SOLVER.AMP.PRECISION", "fp16"])


def test_the_log_has_the_means_of_a_step(tmp_path, data):
    config = write_config(tmp_path, data, CONSTANT, {"SOLVER": {"ACCUMULATE": 2, "MAX_ITER": 1}})
    losses = []

    def watched(_distiller, _inputs, found):
        losses.append({name: loss.item() for name, loss in found.items()})

    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, inputs, found: watched(module, inputs, found) if isinstance(module, Distiller) else None
    )
    with handle:
        train(config)
    logged = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[0])
    assert logged["loss_cls"] == pytest.approx(sum(found["loss_cls"] for found in losses) / 2)


@pytest.fixture
def scored(retinanets, tmp_path, monkeypatch):
    """Trains a detector, for at most 8 steps, whose evaluations behind every step give the scores of a list.

    An error among them is raised.
    """
    solver = ["SOLVER.MAX_ITER", "8", "SOLVER.STEPS", "[]", "SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "1"]
    test = ["DATASETS.TEST", "['tiny']", "TEST.EVAL_PERIOD", "1", "TEST.BEST", "bbox/AP", "TEST.PATIENCE", "2"]

    def run(values: list[float | Exception], *options: str, **changes) -> list[float | Exception]:
        scores = Mock(side_effect=[x if isinstance(x, Exception) else {"bbox": {"AP": x}} for x in values])
        monkeypatch.setattr(Trainer, "test", scores)
        train(retinanets, *solver, *test, "OUTPUT_DIR", str(tmp_path), *options, **changes)
        return values[scores.call_count :]

    return run


VALUES = [1.0, 2.0, 3.0, 2.5, 2.0, 2.0]  # the last one is the final evaluation


def test_a_run_ends_when_the_metric_got_no_better_so_often(scored, tmp_path):
    assert scored(VALUES) == []
    assert content(tmp_path)["iteration"] == 4
    text = "TEST.PATIENCE: bbox/AP was not above 3 in 2 evaluations: the training ends after iteration 4"
    assert text in (tmp_path / "log.txt").read_text()
    assert content(tmp_path, "model_best.pth")["iteration"] == 2
    assert json.loads((tmp_path / "results.json").read_text()) == {"bbox/AP": 2.0}


def test_a_run_that_ended_early_stays_finished(scored, tmp_path):
    scored(VALUES)
    before = content(tmp_path)
    assert scored([2.0], resume=True) == []
    assert contents.different(before, content(tmp_path)) == []


def test_a_run_killed_before_its_final_checkpoint_stays_finished(scored, tmp_path):
    scored(VALUES)
    os.remove(tmp_path / "model_final.pth")
    (tmp_path / "last_checkpoint").write_text("model_0000004.pth")
    assert scored([2.0], resume=True) == []
    assert content(tmp_path)["iteration"] == 4


@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_resumed_run_ends_where_the_whole_one_did(scored, tmp_path, step):
    scored(VALUES)
    whole = content(tmp_path)
    (tmp_path / "last_checkpoint").write_text(f"model_{step - 1:07d}.pth")
    assert scored(VALUES[step:], resume=True) == []
    assert set(contents.different(whole, content(tmp_path))) <= {".kd2.best.value"}


def test_an_evaluation_that_was_cut_off_is_made_up_for(scored, tmp_path):
    options = ["TEST.PATIENCE", "0", "SOLVER.MAX_ITER", "3"]
    with pytest.raises(RuntimeError, match="lost"):
        scored([1.0, RuntimeError("lost")], *options)
    assert scored([9.0, 2.0], *options, resume=True) == []
    assert content(tmp_path, "model_best.pth")["iteration"] == 1


def test_more_patience_lets_a_run_go_on(scored, tmp_path):
    scored(VALUES)
    assert scored([9.0, 8.0, 7.0], "TEST.PATIENCE", "3", resume=True) == []
    assert content(tmp_path)["iteration"] == 7


def test_expected_results_are_verified_after_an_early_end(scored):
    with pytest.raises(SystemExit):
        scored(VALUES, "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 40.0, 0.1]]")


def test_precise_statistics_of_another_network_are_refused(retinanets, tmp_path):
    with pytest.raises(ConfigError, match="^MODEL.EMA.ENABLED and TEST.PRECISE_BN.ENABLED are both True: "):
        train(retinanets, "MODEL.EMA.ENABLED", "True", "TEST.PRECISE_BN.ENABLED", "True", "OUTPUT_DIR", str(tmp_path))


def batches(config: str, count: int) -> list[list[dict]]:
    return list(itertools.islice(train_loader(load_config(config)), count))


def test_the_jitter_decides_the_sizes_of_detection(tmp_path, data):
    config = write_config(tmp_path, data, {"INPUT": {"SCALE_JITTER": JITTER}})
    samples = [sample for batch in batches(config, 8) for sample in batch]
    sizes = [tuple(sample["image"].shape[1:]) for sample in samples]
    assert all(height <= 64 and width <= 80 for height, width in sizes) and len(set(sizes)) > 5
    for (height, width), sample in zip(sizes, samples):
        boxes = sample["instances"].gt_boxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all() and (boxes >= 0).all()
        assert (boxes[:, 2] <= width).all() and (boxes[:, 3] <= height).all()


@pytest.fixture(scope="module")
def with_polygons(tmp_path_factory, data):
    """Folder of the tiny data set with a polygon for every box."""
    folder = tmp_path_factory.mktemp("polygons")
    os.symlink(data / "images", folder / "images")
    coco = json.loads((data / "coco.json").read_text())
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    (folder / "coco.json").write_text(json.dumps(coco))
    return folder


MASK_RCNN = merged(
    FASTER_RCNN,
    {"MODEL": {"MASK_ON": True, "ROI_MASK_HEAD": {"NAME": "MaskRCNNConvUpsampleHead", "CONV_DIM": 8, "NUM_CONV": 1}}},
)


def test_boxes_are_those_of_what_the_crop_left_of_the_masks(tmp_path, with_polygons):
    config = write_config(tmp_path, with_polygons, {"INPUT": {"SCALE_JITTER": JITTER}}, detector=MASK_RCNN)
    for batch in batches(config, 6):
        for sample in batch:
            found = sample["instances"]
            assert found.gt_masks.tensor.shape[1:] == sample["image"].shape[1:]
            assert torch.equal(found.gt_masks.get_bounding_boxes().tensor, found.gt_boxes.tensor)


def test_instances_are_trained_with_all_of_it(tmp_path, with_polygons):
    config = write_config(tmp_path, with_polygons, EMA, INPUT, {"SOLVER": {"ACCUMULATE": 2}}, detector=MASK_RCNN)
    train(config, "SOLVER.MAX_ITER", "2", "SOLVER.STEPS", "[]")
    assert content(tmp_path / "out")["iteration"] == 1


def test_the_jitter_crops_and_pads_pixels_to_one_size(tmp_path, pixels):
    config = semantic_config(tmp_path, pixels, INPUT)
    for batch in batches(config, 4):
        for sample in batch:
            assert tuple(sample["image"].shape[1:]) == (64, 80) == tuple(sample["sem_seg"].shape)


def test_colors_do_not_depend_on_the_order_of_channels(tmp_path, data):
    colors = {"INPUT": {"COLOR_JITTER": {"SATURATION": 1.0}, "RANDOM_FLIP": "none", "MIN_SIZE_TRAIN": [64]}}
    config = write_config(tmp_path, data, colors)
    record = train_loader(load_config(config)).dataset.records[0]
    images = []
    for order in ("RGB", "BGR"):
        mapper = PictureMapper(load_config(config, ["INPUT.FORMAT", order]), True)
        with seeded(3):
            images.append(mapper(record)["image"])
    assert torch.equal(images[0], images[1].flip(0))
    with seeded(3):
        plain = PictureMapper(load_config(config, ["INPUT.COLOR_JITTER.SATURATION", "0.0"]), True)(record)["image"]
    assert not torch.equal(images[1], plain)


def test_colors_of_another_format_are_refused(tmp_path, data):
    config = write_config(tmp_path, data, {"INPUT": {"COLOR_JITTER": COLORS, "FORMAT": "L"}})
    with pytest.raises(ConfigError, match="^INPUT.COLOR_JITTER is given and INPUT.FORMAT is 'L', expected RGB or BGR$"):
        load_config(config)
