"""``torchrun --nproc_per_node 2 tools/train_net.py`` as it is, and the same under srun, on both roads."""

import importlib.util

import pytest
import torch

from ..helpers.launch import srun, torchrun

ROADS = ["torchvision", "detectron2"]
# The config is one of a single process; the seed is drawn.
CHANGES = {"SEED": -1, "SOLVER": {"REFERENCE_WORLD_SIZE": 1, "IMS_PER_BATCH": 2, "MAX_ITER": 4, "STEPS": [2]}}


@pytest.fixture(scope="module", params=ROADS)
def config(request, tmp_path_factory):
    """A student's config with an imitation loss."""
    if any(importlib.util.find_spec(name) is None for name in (request.param, "lightning")):
        pytest.skip(f"needs {request.param} and lightning")
    folder = tmp_path_factory.mktemp(request.param)
    return (detectron2 if request.param == "detectron2" else torchvision)(folder)


def torchvision(folder) -> str:
    from ..helpers import tiny_detection as tiny
    from ..helpers.lightning_runs import train

    tiny.write_data(folder / "data")
    (folder / "teacher").mkdir()
    wide = {"MODEL": {"FPN": {"OUT_CHANNELS": 24}}, "SOLVER": {"MAX_ITER": 1, "STEPS": []}}
    train(tiny.write_config(folder / "teacher", folder / "data", wide, "teacher"))
    return tiny.write_config(folder, folder / "data", tiny.distilled(folder / "teacher", CHANGES))


def detectron2(folder) -> str:
    from ..helpers import d2_tiny as tiny

    tiny.write_data(folder / "data")
    return tiny.write_pair(folder, folder / "data", CHANGES)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    """The final checkpoint of a run by torchrun."""
    folder = tmp_path_factory.mktemp("torchrun")
    ended = torchrun("--config-file", config, "OUTPUT_DIR", str(folder))
    assert ended.returncode == 0, ended.stderr[-4000:]
    return torch.load(folder / "model_final.pth", weights_only=True)


def test_two_processes_trained_together(run):
    assert len(run["kd2"]["rng"]) == 2


def test_the_config_was_scaled_to_them(run):
    lines = [line.strip() for line in run["kd2"]["config"].splitlines()]
    assert {"IMS_PER_BATCH: 4", "MAX_ITER: 2", "REFERENCE_WORLD_SIZE: 2"} <= set(lines)


@pytest.mark.slow
def test_tasks_of_srun_train_the_same(run, config, tmp_path):
    """With the seed that the other run drew."""
    seed = str(run["kd2"]["seed"])
    assert srun("--config-file", config, "OUTPUT_DIR", str(tmp_path), "SEED", seed) == [0, 0]
    found = torch.load(tmp_path / "model_final.pth", weights_only=True)
    for part in ("model", "adapters"):
        assert found[part].keys() == run[part].keys()
        assert all(torch.equal(found[part][name], run[part][name]) for name in run[part])
