"""A run of each task on the roads of torchvision and timm, made once."""

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("lightning")


@pytest.fixture(scope="session")
def detector(tmp_path_factory):
    """The folder of a Mask R-CNN's run; its data lie beside it."""
    from ..helpers import tiny_detection
    from ..helpers.untrained_runs import write_run

    folder = tmp_path_factory.mktemp("detector")
    tiny_detection.write_data(folder / "data")
    changes = {
        "MODEL": {"META_ARCHITECTURE": "MaskRCNN", "RETINANET": None, "ROI_HEADS": {"SCORE_THRESH_TEST": 0.2}},
        "DATASETS": {"TEST": ["tiny"]},
        "TEST": {"DETECTIONS_PER_IMAGE": 4},
    }
    return write_run(tiny_detection.write_config(folder, folder / "data", changes))


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory):
    """The folder of a PSPNet's run that resizes its pictures."""
    from ..helpers import tiny_segmentation
    from ..helpers.untrained_runs import write_run

    folder = tmp_path_factory.mktemp("segmenter")
    tiny_segmentation.write_data(folder / "data")
    changes = {"INPUT": {"MIN_SIZE_TEST": 40}, "DATASETS": {"TEST": ["drawn"]}}
    return write_run(tiny_segmentation.write_config(folder, folder / "data", changes))


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    """The folder of a classifier's run that cuts its pictures."""
    from ..helpers import tiny_classification
    from ..helpers.untrained_runs import write_run

    folder = tmp_path_factory.mktemp("classifier")
    tiny_classification.write_data(folder / "data")
    changes = {"INPUT": {"TEST_SCALE": 1.1}, "DATASETS": {"TEST": ["tiny_test"]}}
    return write_run(tiny_classification.write_config(folder, folder / "data", changes))


@pytest.fixture(params=["detector", "segmenter", "classifier"])
def run(request):
    """Each of them in turn."""
    return request.getfixturevalue(request.param)
