"""Packages that only some roads need: which extra of setup.py brings them."""

import importlib
from types import ModuleType

from kd2.distill import ConfigError

EXTRAS = {
    "torchvision": ("torchvision", "lightning", "torchmetrics", "tensorboard", "timm", "pycocotools"),
    "deploy": ("onnx", "onnxruntime", "openvino"),
    "parquet": ("pyarrow",),
    "detectron2": ("cv2", "cityscapesscripts"),
}


def package(name: str) -> ModuleType:
    """The package, imported; raises ConfigError naming it and its extra when it is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise missing(name) or error from None


def missing(name: str | None) -> ConfigError | None:
    """What a user is told who lacks the package; None where no extra brings it."""
    extra = next((extra for extra, names in EXTRAS.items() if name in names), None)
    return ConfigError(f"the package {name!r} is missing: pip install 'kd2[{extra}]'") if extra else None
