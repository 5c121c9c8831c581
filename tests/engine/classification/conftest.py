"""Tiny drawn pictures and one trained teacher for all tests of this folder."""

import pytest


def pytest_configure(config):
    for text in ("Checkpoint directory", "The dirpath has changed", "`isinstance.treespec, LeafSpec.` is deprecated"):
        config.addinivalue_line("filterwarnings", f"ignore:{text}")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of the tiny data set: train.npz, test.npz and a copy of train as class folders."""
    from ...helpers import tm_tiny

    folder = tmp_path_factory.mktemp("tm") / "data"
    tm_tiny.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def tm_teacher(tmp_path_factory, pictures):
    """The folder of a trained teacher: teacher.yaml and out/model_final.pth."""
    from ...helpers import tm_tiny

    folder = tmp_path_factory.mktemp("tm_teacher")
    tm_tiny.train(tm_tiny.write_config(folder, pictures, {"SOLVER": {"MAX_ITER": 2}, "SEED": 3}, "teacher"))
    return folder
