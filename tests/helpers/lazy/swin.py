"""A tiny Swin transformer below an FPN, with the heads of Mask R-CNN."""

from detectron2.config import LazyCall
from detectron2.modeling import SwinTransformer

from .tiny_rcnn import model

model.backbone.bottom_up = LazyCall(SwinTransformer)(
    embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, drop_path_rate=0.0
)
model.backbone.in_features = ("p0", "p1", "p2", "p3")
