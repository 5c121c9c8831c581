"""Detectron2's own description of a Mask R-CNN, made tiny: a config file, which Detectron2's loader runs."""

from detectron2 import model_zoo
from detectron2.config import LazyCall
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model
STAGES = ["s1", "s2", "s3", "s4"]
tiny_body = LazyCall(RegNet)(
    stem_class=SimpleStem, stem_width=8, block_class=ResBottleneckBlock, depth=4, w_a=12, w_0=8, w_m=1.5,
    group_width=8, freeze_at=0, norm="BN", out_features=STAGES,
)  # fmt: skip

model.backbone.update(bottom_up=tiny_body, in_features=STAGES, out_channels=16)
model.pixel_std = [57.375, 57.120, 58.395]
rpn, heads = model.proposal_generator, model.roi_heads
rpn.head.in_channels, rpn.batch_size_per_image = 16, 16
rpn.anchor_generator.sizes = [[8], [16], [32], [64], [128]]
rpn.update(post_nms_topk=(50, 20))
heads.update(num_classes=2, batch_size_per_image=16)
heads.box_pooler.output_size, heads.mask_pooler.output_size = 3, 7
heads.box_head.input_shape.update(channels=16, height=3, width=3)
heads.box_head.fc_dims = [16]
heads.box_predictor.input_shape.channels = 16
heads.mask_head.input_shape.update(channels=16, height=7, width=7)
heads.mask_head.conv_dims = [8, 8]
