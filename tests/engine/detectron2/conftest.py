"""The tiny data set and configs, made once."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def compiled():
    """The first plain run of a process differs from its second one in the last bit; here none is the first."""
    from kd2.engine.detectron2.compat import warm_up

    warm_up()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Folder of a tiny COCO data set."""
    from ...helpers.d2_tiny import write_data

    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="session", params=["RetinaNet", "GeneralizedRCNN"])
def pair(request, data, tmp_path_factory):
    """Path of a student's config with an imitation loss and a teacher, for both kinds of detector."""
    from ...helpers.d2_tiny import DETECTORS, write_pair

    return write_pair(tmp_path_factory.mktemp(request.param), data, detector=DETECTORS[request.param])


@pytest.fixture(scope="session")
def retinanets(data, tmp_path_factory):
    """The pair of RetinaNets."""
    from ...helpers.d2_tiny import write_pair

    return write_pair(tmp_path_factory.mktemp("retinanets"), data)


@pytest.fixture(scope="session")
def pixels(tmp_path_factory):
    """Folder of a tiny data set with a class a pixel."""
    from ...helpers.d2_semantic import write_semantic

    folder = tmp_path_factory.mktemp("pixels")
    write_semantic(folder)
    return folder


@pytest.fixture(scope="session")
def pspnets(pixels, tmp_path_factory):
    """Path of a PSPNet's config with two losses and a wider teacher."""
    from ...helpers.d2_semantic import semantic_pair

    return semantic_pair(tmp_path_factory.mktemp("pspnets"), pixels)
