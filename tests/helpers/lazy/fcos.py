"""A tiny FCOS, which Detectron2 describes in this form alone."""

from detectron2 import model_zoo
from detectron2.layers import ShapeSpec

from .tiny_rcnn import tiny_body

model = model_zoo.get_config("common/models/fcos.py").model
model.backbone.update(bottom_up=tiny_body, in_features=["s2", "s3", "s4"], out_channels=16)
model.backbone.top_block.update(in_channels=16, out_channels=16)
model.head.update(conv_dims=[16], input_shape=[ShapeSpec(channels=16)] * 5, norm="")
model.pixel_std = [57.375, 57.120, 58.395]
model.num_classes = 2
