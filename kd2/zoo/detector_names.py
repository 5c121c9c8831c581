"""Detectron2's detectors as torchvision has them: names, order of anchors and of classes.

Letters: K classes without background, S sizes and R ratios of anchors at a cell, C channels.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from kd2.zoo.resnet_names import body_name, renamed

_BODY = "backbone.bottom_up."
# What a model takes from its config.
_CONFIGURED = re.compile(r"pixel_(mean|std)$|.*anchor_generator\.cell_anchors")
# Later stages of a Cascade R-CNN.
_LATER = re.compile(r"roi_heads\.(box_head|box_predictor)\.[1-9]\d*\.")
_RULES = (
    (r"^backbone\.top_block\.", "backbone.fpn.extra_blocks."),
    (r"^head\.cls_score\.", "head.classification_head.cls_logits."),
    (r"^head\.bbox_pred\.", "head.regression_head.bbox_reg."),
    (r"^proposal_generator\.rpn_head\.conv\.", "rpn.head.conv.0.0."),
    (r"^proposal_generator\.rpn_head\.objectness_logits\.", "rpn.head.cls_logits."),
    (r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.head.bbox_pred."),
    (r"^roi_heads\.(box_head|box_predictor)\.0\.", r"roi_heads.\1."),
    (r"^roi_heads\.box_head\.fc1\.", "roi_heads.box_head.fc6."),
    (r"^roi_heads\.box_head\.fc2\.", "roi_heads.box_head.fc7."),
    (r"^roi_heads\.mask_head\.deconv\.", "roi_heads.mask_predictor.conv5_mask."),
    (r"^roi_heads\.mask_head\.predictor\.", "roi_heads.mask_predictor.mask_fcn_logits."),
)


def is_detectron2(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has Detectron2's names of a detector."""
    return any(name.startswith(_BODY) for name in state)


def detector_state(state: Mapping[str, Tensor], sizes: int, ratios: int) -> tuple[dict[str, Tensor], list[str]]:
    """The weights of RetinaNet, Faster, Mask or Cascade R-CNN with an FPN under torchvision's names and orders.

    Anchors of a cell stand by size, then ratio in Detectron2, by ratio, then size here. Background is the last class
    there and the first one here; boxes and masks of it, which Detectron2 has not, are zeros that nobody reads. Boxes
    of a class-agnostic head are repeated for every class.

    Args:
        state: Detectron2's names; names that no rule knows stay, and fit no model.
        sizes, ratios: S and R.

    Returns:
        The weights, and the names that were left out: the later stages of a Cascade R-CNN.

    Raises:
        RuntimeError: tensors that have no room for S x R anchors.
    """
    first = min((int(x[1]) for x in (re.match(r"backbone\.fpn_lateral(\d)\.", k) for k in state) if x), default=2)
    kept = {k: v for k, v in state.items() if not (_CONFIGURED.match(k) or _LATER.match(k))}
    layers = 3 if "head.cls_subnet.1.weight" in kept else 2  # convolution, norm or none, ReLU
    found = {_name(name, first, layers): value for name, value in kept.items()}
    for name, value in found.items():
        found[name] = _reordered(name.rpartition(".")[0], value, sizes, ratios)
    _add_background(found)
    return found, [name for name in state if _LATER.match(name)]


def _name(name: str, first: int, layers: int) -> str:
    if name.startswith(_BODY):
        return f"backbone.body.{body_name(name.removeprefix(_BODY))}"
    level = re.match(r"backbone\.fpn_(lateral|output)(\d)\.(norm\.)?", name)
    if level:
        blocks = "inner" if level[1] == "lateral" else "layer"
        return f"backbone.fpn.{blocks}_blocks.{int(level[2]) - first}.{1 if level[3] else 0}.{name[level.end() :]}"
    tower = re.match(r"head\.(cls|bbox)_subnet\.(\d+)\.", name)
    if tower:
        head, place = "classification" if tower[1] == "cls" else "regression", divmod(int(tower[2]), layers)
        return f"head.{head}_head.conv.{place[0]}.{place[1]}.{name[tower.end() :]}"
    mask = re.match(r"roi_heads\.mask_head\.mask_fcn(\d+)\.", name)
    if mask:
        return f"roi_heads.mask_head.{int(mask[1]) - 1}.0.{name[mask.end() :]}"
    return renamed(name, _RULES)


def _reordered(module: str, value: Tensor, sizes: int, ratios: int) -> Tensor:
    """Output channels by ratio, then size; all else as it is."""
    if module not in (
        "head.classification_head.cls_logits",
        "head.regression_head.bbox_reg",
        "rpn.head.cls_logits",
        "rpn.head.bbox_pred",
    ):
        return value
    return value.reshape(sizes, ratios, -1, *value.shape[1:]).transpose(0, 1).reshape(value.shape)


def _add_background(state: dict[str, Tensor]) -> None:
    """The background's place in the heads of an R-CNN; changes ``state``."""
    predictor, masks = "roi_heads.box_predictor", "roi_heads.mask_predictor.mask_fcn_logits"
    if f"{predictor}.cls_score.weight" not in state:
        return
    classes = len(state[f"{predictor}.cls_score.weight"]) - 1
    for kind in ("weight", "bias"):
        if (name := f"{predictor}.cls_score.{kind}") in state:
            state[name] = state[name].roll(1, 0)
        for name, rows in ((f"{predictor}.bbox_pred.{kind}", 4), (f"{masks}.{kind}", 1)):
            if name in state:
                value = state[name]
                if len(value) == rows != rows * classes:
                    value = torch.cat([value] * classes)
                state[name] = torch.cat([torch.zeros_like(value[:rows]), value])
