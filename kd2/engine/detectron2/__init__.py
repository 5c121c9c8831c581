"""Detectron2: importing this package puts the ``Distiller``, backbones and heads into Detectron2's registries."""

from kd2.engine.detectron2 import segmentation as _segmentation  # registers PSPNet and ESPNet
from kd2.engine.detectron2 import timm_backbone as _backbones  # registers the backbones
from kd2.engine.detectron2.config import add_d2_config
from kd2.engine.detectron2.distiller import Distiller

__all__ = ["Distiller", "add_d2_config"]
