"""The end of the quick start: the distilled student as an ONNX file, and what that file finds."""

import os
from collections.abc import Sequence

from kd2.deploy.export import prepare
from kd2.deploy.formats import FORMATS, package
from kd2.deploy.predict import predict

FILE, FOUND = "student.onnx", "found"
_LEAST = 0.3  # score from which on a detection is drawn


def check_packages() -> None:
    """Raises ConfigError, with the extra to install, when what writes or runs an ONNX file is missing."""
    for name in FORMATS["onnx"].packages:
        package(name)


def export(run: str, pictures: Sequence[str], output: str) -> None:
    """Write the student of a run as ``student.onnx``; run that file on pictures and draw its detections in ``found``.

    Raises:
        ConfigError: see ``kd2.deploy.export.prepare``.
    """
    file = prepare(run, "onnx", os.path.join(output, FILE), overwrite=True).write()
    os.makedirs(os.path.join(output, FOUND), exist_ok=True)
    for _ in predict(file, pictures, os.path.join(output, FOUND), _LEAST):
        pass  # a picture is drawn
