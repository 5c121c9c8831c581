"""A tiny ViTDet: Mask R-CNN on a plain vision transformer that pads every image to a square."""

from functools import partial

from detectron2.config import LazyCall
from detectron2.modeling import SimpleFeaturePyramid, ViT
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from .tiny_rcnn import model

model.pixel_mean, model.pixel_std = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
model.input_format = "RGB"
model.backbone = LazyCall(SimpleFeaturePyramid)(
    net=LazyCall(ViT)(
        img_size=128, patch_size=16, embed_dim=32, depth=2, num_heads=2, window_size=4, window_block_indexes=[0],
        norm_layer=partial(nn.LayerNorm, eps=1e-6), use_rel_pos=True, out_feature="last_feat",
    ),
    in_feature="last_feat", out_channels=16, scale_factors=(4.0, 2.0, 1.0, 0.5), norm="LN", square_pad=128,
    top_block=LazyCall(LastLevelMaxPool)(),
)  # fmt: skip
