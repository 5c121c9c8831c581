"""kd2: knowledge distillation for object detection and segmentation on Detectron2."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kd2.deploy.load import load
    from kd2.engine.build import make_distiller

__all__ = ["__version__", "load", "make_distiller"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    """What the package gives is imported at its first use: the version can be read without torch."""
    if name == "make_distiller":
        from kd2.engine.build import make_distiller

        return make_distiller
    if name == "load":
        from kd2.deploy.load import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
