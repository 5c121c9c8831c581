"""FCOS on a small RegNet."""

from detectron2 import model_zoo
from detectron2.config import LazyCall
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

body = LazyCall(RegNet)(
    stem_class=SimpleStem, stem_width=16, block_class=ResBottleneckBlock, depth=4, w_a=24, w_0=16, w_m=1.5,
    group_width=8, freeze_at=0, norm="BN", out_features=["s2", "s3", "s4"],
)  # fmt: skip

model = model_zoo.get_config("common/models/fcos.py").model
model.backbone.update(bottom_up=body, in_features=["s2", "s3", "s4"], out_channels=32, norm="GN")
model.backbone.top_block.update(in_channels=32, out_channels=32)
model.head.update(conv_dims=[32], input_shape=[ShapeSpec(channels=32)] * 5)
model.update(num_classes=3, pixel_std=[57.375, 57.120, 58.395], test_score_thresh=0.05)
