"""One tiny data set and trained teachers of each task, for all tests of these folders."""

import pytest


def pytest_configure(config):
    for text in ("Checkpoint directory", "`isinstance.treespec, LeafSpec.` is deprecated"):
        config.addinivalue_line("filterwarnings", f"ignore:{text}")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder of the tiny detection data set."""
    from ...helpers import tiny_detection

    folder = tmp_path_factory.mktemp("detection") / "data"
    tiny_detection.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, data):
    """The folder of a trained RetinaNet, wider than the students: teacher.yaml and out/model_final.pth."""
    return _detector(tmp_path_factory, data, {})


@pytest.fixture(scope="session")
def rcnn_teacher(tmp_path_factory, data):
    """The same for a Faster R-CNN."""
    from ...helpers import tiny_detection

    return _detector(tmp_path_factory, data, tiny_detection.FASTER_RCNN)


@pytest.fixture(scope="session")
def semantic_data(tmp_path_factory):
    """The folder of the tiny segmentation data set."""
    from ...helpers import tiny_segmentation

    folder = tmp_path_factory.mktemp("segmentation") / "data"
    tiny_segmentation.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def psp_teacher(tmp_path_factory, semantic_data):
    """The folder of a trained PSPNet, wider than the students: teacher.yaml and out/model_final.pth."""
    from ...helpers.lightning_runs import train
    from ...helpers.tiny_segmentation import write_config

    folder = tmp_path_factory.mktemp("psp_teacher")
    changes = {"MODEL": {"SEM_SEG_HEAD": {"CONVS_DIM": 24}}, "SOLVER": {"MAX_ITER": 2}, "SEED": 3}
    train(write_config(folder, semantic_data, changes, "teacher"))
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """The folder of the tiny classification data set: train.npz, test.npz and a copy of train as class folders."""
    from ...helpers import tiny_classification

    folder = tmp_path_factory.mktemp("classification") / "data"
    tiny_classification.write_data(folder)
    return folder


@pytest.fixture(scope="session")
def class_teacher(tmp_path_factory, pictures):
    """The folder of a trained classifier: teacher.yaml and out/model_final.pth."""
    from ...helpers.lightning_runs import train
    from ...helpers.tiny_classification import write_config

    folder = tmp_path_factory.mktemp("class_teacher")
    train(write_config(folder, pictures, {"SOLVER": {"MAX_ITER": 2}, "SEED": 3}, "teacher"))
    return folder


@pytest.fixture(scope="session", params=["detection", "segmentation", "classification"])
def task(request):
    """Each task in turn, with a network that torchvision or timm also builds alone."""
    from ...helpers import tiny_tasks

    data, teacher = {
        "detection": ("data", "teacher"),
        "segmentation": ("semantic_data", "psp_teacher"),
        "classification": ("pictures", "class_teacher"),
    }[request.param]
    build = getattr(tiny_tasks, request.param)
    return build(request.getfixturevalue(data), request.getfixturevalue(teacher))


def _detector(tmp_path_factory, data, changes):
    from ...helpers.lightning_runs import merged, train
    from ...helpers.tiny_detection import write_config

    folder = tmp_path_factory.mktemp("teacher")
    wider = merged({"MODEL": {"FPN": {"OUT_CHANNELS": 24}}, "SOLVER": {"MAX_ITER": 2}, "SEED": 3}, changes)
    train(write_config(folder, data, wider, "teacher"))
    return folder
