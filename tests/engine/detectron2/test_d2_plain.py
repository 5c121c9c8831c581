"""Without losses, training is plain Detectron2 training bit for bit."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

from ...helpers.d2_plain import plain_weights
from ...helpers.d2_tiny import DETECTORS, different, load_config, train, weights, write_config

LONG = {"SOLVER": {"MAX_ITER": 20, "STEPS": [15], "CHECKPOINT_PERIOD": 100}}


@pytest.fixture(scope="module", params=DETECTORS)
def plain(request, data, tmp_path_factory):
    """The config of a detector, and the weights after 20 iterations of Detectron2 alone."""
    folder = tmp_path_factory.mktemp("plain")
    path = write_config(folder, data, LONG, detector=DETECTORS[request.param])
    return path, plain_weights(load_config(path, ["OUTPUT_DIR", str(folder / "theirs")]))


@pytest.mark.parametrize("losses", ["{}", "{'imitation': {'WEIGHT': 0.0}}"], ids=["no losses", "weight 0"])
def test_20_iterations_equal_plain_training(plain, tmp_path, losses):
    path, expected = plain
    train(path, "OUTPUT_DIR", str(tmp_path), "KD.LOSSES", losses)
    assert different(weights(tmp_path), expected) == []


def test_clipped_gradients_are_those_of_plain_training(data, tmp_path):
    clip = {"SOLVER": {"CLIP_GRADIENTS": {"ENABLED": True, "CLIP_TYPE": "norm", "CLIP_VALUE": 0.01}}}
    path = write_config(tmp_path, data, clip)
    expected = plain_weights(load_config(path, ["OUTPUT_DIR", str(tmp_path / "theirs")]))
    train(path)
    assert different(weights(tmp_path / "out"), expected) == []
