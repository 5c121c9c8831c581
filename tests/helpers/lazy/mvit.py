"""A tiny MViTv2 below an FPN, with the heads of Mask R-CNN."""

from detectron2.config import LazyCall
from detectron2.modeling import MViT

from .tiny_rcnn import model

model.backbone.bottom_up = LazyCall(MViT)(
    img_size=64, pretrain_img_size=64, embed_dim=8, depth=4, num_heads=1, last_block_indexes=(0, 1, 2, 3),
    adaptive_window_size=16, residual_pooling=True, out_features=("scale2", "scale3", "scale4", "scale5"),
)  # fmt: skip
model.backbone.in_features = "${.bottom_up.out_features}"
