"""kd2: knowledge distillation for object detection and segmentation on Detectron2."""

__version__ = "0.2.0"
