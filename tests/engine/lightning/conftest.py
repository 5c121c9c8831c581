"""One tiny data set and one teacher of each kind for all tests of this folder."""

import pytest


def pytest_configure(config):
    for text in ("Checkpoint directory", "The dirpath has changed", "`isinstance.treespec, LeafSpec.` is deprecated"):
        config.addinivalue_line("filterwarnings", f"ignore:{text}")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of the tiny data set."""
    from ...helpers import tiny

    folder = tmp_path_factory.mktemp("tiny") / "data"
    tiny.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, data):
    """The folder of a trained RetinaNet, wider than the students: teacher.yaml and out/model_final.pth."""
    return _trained(tmp_path_factory, data, {})


@pytest.fixture(scope="session")
def rcnn_teacher(tmp_path_factory, data):
    """The same for a Faster R-CNN."""
    from ...helpers import tiny

    return _trained(tmp_path_factory, data, tiny.FASTER_RCNN)


@pytest.fixture(scope="session")
def drawn_data(tmp_path_factory):
    """The folder of the tiny segmentation data set."""
    from ...helpers import tv_drawn

    folder = tmp_path_factory.mktemp("drawn") / "data"
    tv_drawn.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def psp_teacher(tmp_path_factory, drawn_data):
    """The folder of a trained PSPNet, wider than the students: teacher.yaml and out/model_final.pth."""
    from ...helpers import tv_drawn
    from ...helpers import tiny

    folder = tmp_path_factory.mktemp("psp")
    changes = {"MODEL": {"SEM_SEG_HEAD": {"CONVS_DIM": 24}}, "SOLVER": {"MAX_ITER": 2}, "SEED": 3}
    tiny.train(tv_drawn.write_config(folder, drawn_data, changes, "teacher"))
    return folder


def _trained(tmp_path_factory, data, changes):
    from ...helpers import tiny

    folder = tmp_path_factory.mktemp("teacher")
    wider = tiny.merged({"MODEL": {"FPN": {"OUT_CHANNELS": 24}}, "SOLVER": {"MAX_ITER": 2}, "SEED": 3}, changes)
    tiny.train(tiny.write_config(folder, data, wider, "teacher"))
    return folder
