"""The teacher of a classifier: unchanged by training, cached where that is right, refused where it does not fit."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="needs timm")
pytest.importorskip("lightning", reason="needs lightning")

import numpy as np
import torch

from kd2 import engine
from kd2.data.classification.views import MODES
from kd2.distill import ConfigError, Distiller
from kd2.engine.lightning.classification.teacher import TeacherEnsemble, TeacherNetwork
from kd2.engine.lightning.teacher import TeacherSource
from kd2.engine.pair import build_distiller
from kd2.losses.distances import DISTANCES

from ....helpers import lightning_runs as runs
from ....helpers import tiny_classification as tiny

GOLDEN = Path(__file__).parents[3] / "golden" / "funmatch"


def teacher_state(distiller) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in distiller.teacher.model.state_dict().items()}


# One mode of each kind by default.
QUICK = ("fix/cc", "ind/ic", "funmatch")


@pytest.mark.parametrize("mode", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in sorted(MODES)])
def test_50_steps_leave_the_teacher_unchanged_bit_for_bit(mode, tmp_path, pictures, class_teacher):
    cache = {"KD": {"VIEWS": {"CACHE": str(tmp_path / "cache")}}} if mode.startswith("fix") else {}
    config = tiny.write_config(tmp_path, pictures, tiny.distilled(class_teacher, cache, mode))
    small = ["INPUT.SIZE", "16", "KD.TEACHER.OPTS", "['INPUT.SIZE', '16']"]
    distiller = runs.distiller(config, *small)
    before = teacher_state(distiller)
    optimizer = torch.optim.SGD(distiller.parameters(), lr=0.01)
    for batch in itertools.islice(runs.batches(config, *small), 50):
        optimizer.zero_grad()
        sum(distiller(batch).values()).backward()
        optimizer.step()
    assert runs.same(before, teacher_state(distiller)) == []


def distiller_of(teachers: list[TeacherSource], config: str) -> Distiller:
    """The distiller of a config with other teachers than it names."""
    experiment = runs.experiment(config)
    experiment.teachers = teachers
    return build_distiller(experiment)[0]


@pytest.fixture
def two_teachers(tmp_path, pictures, class_teacher):
    """The config of a student, its teacher, and another one."""
    runs.train(tiny.write_config(tmp_path, pictures, {"SOLVER": {"MAX_ITER": 1}, "SEED": 9}, "second"))
    config = tiny.write_config(tmp_path, pictures, tiny.distilled(class_teacher))
    (first,) = runs.experiment(config).teachers
    weights = str(tmp_path / "out" / "model_final.pth")
    return config, first, dataclasses.replace(first, node="KD.TEACHERS[0]", weights=weights)


def test_several_teachers_are_the_mean_of_their_logits(two_teachers):
    config, *teachers = two_teachers
    batch = runs.first_batch(config)
    logits = [d.run_teacher(d.teacher.model, batch) for d in (distiller_of([t], config) for t in teachers)]
    both = distiller_of(teachers, config)
    torch.testing.assert_close(both.run_teacher(both.teacher.model, batch), (logits[0] + logits[1]) / 2)


def test_missing_weights_of_a_further_teacher_are_named_by_its_key(two_teachers):
    config, first, second = two_teachers
    with pytest.raises(ConfigError, match=r"^KD.TEACHERS\[0\].WEIGHTS: no file nowhere.pth"):
        distiller_of([first, dataclasses.replace(second, weights="nowhere.pth")], config)


class Stored(torch.nn.Module):
    """A teacher with the same logits for everything."""

    def __init__(self, logits: torch.Tensor):
        super().__init__()
        self.logits = logits

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits


def network(model: torch.nn.Module, normalize: Callable, size: int) -> TeacherNetwork:
    return TeacherNetwork(model, normalize, size, matched=1.0, name="", about="")


def test_the_loss_to_two_teachers_is_that_of_the_reference():
    with np.load(GOLDEN / "two_teachers.npz") as case:
        student, first, second, expected = (
            torch.from_numpy(case[name])
            for name in ("in.student", "in.teacher0", "in.teacher1", "out.loss_average_logits")
        )
    ensemble = TeacherEnsemble([network(Stored(x), lambda pixels: pixels, 8) for x in (first, second)])
    found = DISTANCES["kl"](student, ensemble(torch.zeros(5, 3, 8, 8)), 2.0).mean()
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_a_smaller_teacher_of_two_sees_the_view_reduced():
    seen = []
    pixels = torch.rand(2, 3, 16, 16)
    TeacherEnsemble([network(Stored(torch.zeros(2, 4)), lambda x: seen.append(x) or x, size) for size in (16, 8)])(
        pixels
    )
    assert seen[0] is pixels
    reduced = torch.nn.functional.interpolate(pixels, (8, 8), mode="bilinear", antialias=True)
    torch.testing.assert_close(seen[1], reduced)


def test_a_teacher_of_another_size_sees_the_same_part(tmp_path, pictures, class_teacher):
    changes = tiny.distilled(class_teacher, {"KD": {"TEACHER": {"OPTS": ["INPUT.SIZE", "48"]}}}, "same/rc")
    batch = runs.first_batch(tiny.write_config(tmp_path, pictures, changes))
    assert batch.teacher.shape[2:] == (48, 48)
    smaller = torch.nn.functional.interpolate(batch.teacher, (32, 32), mode="bilinear", antialias=True)
    assert (smaller - batch.images).abs().mean() < 0.05


def test_another_class_count_is_refused(tmp_path, pictures, class_teacher):
    changes = tiny.distilled(
        class_teacher, {"KD": {"TEACHER": {"OPTS": ["MODEL.NUM_CLASSES", "4"], "ALLOW_PARTIAL": True}}}
    )
    text = "^MODEL.NUM_CLASSES of the teacher is 4, MODEL.NUM_CLASSES of the student is 3; KD.LOSSES.logits compares"
    with pytest.raises(ConfigError, match=text):
        runs.train(tiny.write_config(tmp_path, pictures, changes))


@pytest.mark.parametrize("told_by", ["checkpoint", "config"])
def test_another_class_order_is_refused(tmp_path, pictures, class_teacher, told_by):
    order, options = ["box", "bar", "dot"], []
    content = torch.load(class_teacher / "out" / "model_final.pth", weights_only=True)
    if told_by == "checkpoint":
        content["kd2"]["classes"]["images"] = order
    else:
        options = ["MODEL.CLASSES", str(order)]
    torch.save(content, tmp_path / "other.pth")
    teacher = {"WEIGHTS": str(tmp_path / "other.pth"), "OPTS": options}
    changes = tiny.distilled(class_teacher, {"KD": {"TEACHER": teacher}})
    text = r"^the student's data and the teacher \(KD.TEACHER\) differ in class 0: 'bar' and 'box'"
    with pytest.raises(ConfigError, match=text):
        runs.train(tiny.write_config(tmp_path, pictures, changes))


@pytest.fixture(scope="module")
def cached(tmp_path_factory, pictures, class_teacher):
    """The config of a run with a cache, and the cache it made."""
    folder = tmp_path_factory.mktemp("cached")
    changes = tiny.distilled(class_teacher, {"KD": {"VIEWS": {"CACHE": str(folder / "cache")}}}, "fix/cc")
    config = tiny.write_config(folder, pictures, changes)
    runs.train(config, "SOLVER.MAX_ITER", "1")
    return config, folder / "cache"


def test_training_from_a_cache_equals_training_beside_the_teacher(cached, tmp_path):
    config, _ = cached
    runs.train(config, "OUTPUT_DIR", str(tmp_path / "a"))
    runs.train(config, "OUTPUT_DIR", str(tmp_path / "b"), "KD.VIEWS.CACHE", "")
    a, b = runs.weights(tmp_path / "a"), runs.weights(tmp_path / "b")
    assert max((a[name].float() - b[name].float()).abs().max() for name in a) < 1e-4


def test_a_cache_of_another_teacher_is_refused(cached, tmp_path):
    config, folder = cached
    content = torch.load(runs.experiment(config).cfg.KD.TEACHER.WEIGHTS, weights_only=True)
    content["model"]["fc.bias"] += 1
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE: .* was made from something else: teacher .*; delete it"):
        runs.train(config, "KD.TEACHER.WEIGHTS", str(tmp_path / "other.pth"), "OUTPUT_DIR", str(tmp_path))


def test_a_dry_run_refuses_a_cache_of_other_views(cached):
    config, _ = cached
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE: .* was made from something else: mode fix/cc instead"):
        with engine.dry_run(config, ["KD.VIEWS.MODE", "fix/ic_ens"]):
            pass


@pytest.mark.parametrize("mode", ["fix/cc", "fix/ic_ens"])
def test_a_dry_run_computes_the_outputs_of_its_batch_alone(cached, tmp_path, mode):
    folder = tmp_path / "cache"
    options = ["KD.VIEWS.MODE", mode, "KD.VIEWS.CACHE", str(folder), "OUTPUT_DIR", str(tmp_path / "out")]
    with engine.dry_run(cached[0], options) as found:
        targets = found.batch.targets
    assert not folder.exists()
    runs.train(cached[0], *options, "SOLVER.MAX_ITER", "1")
    with engine.dry_run(cached[0], options) as found:
        assert torch.allclose(found.batch.targets, targets, atol=1e-4)


def test_a_cache_of_another_data_set_is_refused(cached, tmp_path):
    """As many images of the same classes."""
    config, _ = cached
    files = [tiny.encoded(50 + n) for n in range(tiny.COUNT)]
    labels = [n % 3 for n in range(tiny.COUNT)]
    names = [f"{tiny.CLASSES[c]}/{n:04}.png" for n, c in enumerate(labels)]
    np.savez(tmp_path / "other.npz", **tiny.archive(files, labels, names))
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE: .* was made from something else: data "):
        runs.train(config, "DATASETS.CUSTOM.tiny.NPZ", str(tmp_path / "other.npz"), "OUTPUT_DIR", str(tmp_path))


def test_a_mode_with_fresh_teacher_views_takes_no_cache(cached, tmp_path):
    config, _ = cached
    with pytest.raises(ConfigError, match="^KD.VIEWS.MODE same/ic: the teacher sees another view in every epoch"):
        runs.train(config, "KD.VIEWS.MODE", "same/ic", "OUTPUT_DIR", str(tmp_path))


def test_several_processes_need_a_cache_that_exists(cached, tmp_path):
    experiment = runs.experiment(cached[0], "KD.VIEWS.CACHE", str(tmp_path / "none"), "OUTPUT_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE: .*none does not exist; make it first, with one process$"):
        experiment.train_loader(experiment.load_data("TRAIN"), 0, rank=0, ranks=2)


def test_an_ensemble_of_views_needs_a_cache(cached, tmp_path):
    config, _ = cached
    with pytest.raises(ConfigError, match="^KD.VIEWS.CACHE is empty, but KD.VIEWS.MODE fix/ic_ens needs the teacher"):
        runs.train(config, "KD.VIEWS.MODE", "fix/ic_ens", "KD.VIEWS.CACHE", "", "OUTPUT_DIR", str(tmp_path))


def test_a_tap_inside_a_cached_teacher_is_refused(cached, tmp_path):
    config, _ = cached
    options = ["KD.TEACHER.TAPS", "['logits=layer4']", "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(ConfigError, match="^KD.TEACHER.TAPS: the model has no module 'layer4'"):
        runs.train(config, *options)
