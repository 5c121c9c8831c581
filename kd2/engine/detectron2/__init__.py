"""Detectron2: importing this package puts the ``Distiller``, backbones and heads into Detectron2's registries."""

from kd2.engine.detectron2 import experiment as _distiller  # noqa: F401 - registers Distiller
from kd2.engine.detectron2 import segmentation as _segmentation  # noqa: F401 - registers PSPNet and ESPNet
from kd2.engine.detectron2 import timm_backbone as _backbones  # noqa: F401 - registers the backbones
from kd2.engine.detectron2.compat import announce_plain_builds
from kd2.engine.detectron2.config import add_d2_config, distill_cfg

announce_plain_builds()

__all__ = ["add_d2_config", "distill_cfg"]
