"""torchvision's own detectors and segmentation networks as teachers, by the names of their builders."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from kd2.distill import ConfigError, nearest
from kd2.engine.weights.names import TORCHVISION, torchvision_builder, torchvision_weights

logger = logging.getLogger(__name__)

# Biases with a row a class (and anchor), of which every network has one.
_CLASS_LAYERS = (
    "roi_heads.box_predictor.cls_score.bias",
    "head.classification_head.cls_logits.bias",
    "head.classification_head.module_list.0.bias",
    "head.classification_head.module_list.0.1.bias",
    "classifier.4.bias",
    "classifier.low_classifier.bias",
)
_AUXILIARY = "aux_classifier.4.bias"
_KEYPOINTS = "roi_heads.keypoint_predictor.kps_score_lowres.bias"
# Builders whose published weights of this name were trained with frozen norms without an epsilon.
_WITHOUT_EPS = tuple(f"{name}_resnet50_fpn" for name in ("fasterrcnn", "maskrcnn", "keypointrcnn", "retinanet"))
_OF_WEIGHTS = "COCO_V1"


def builder_of(name: str, package: Any, key: str) -> str:
    """The builder of a ``torchvision://`` name.

    Args:
        package: ``torchvision.models.detection`` or ``.segmentation``, which must have it.
        key: for errors.

    Raises:
        ConfigError: another package's builder, or none.
    """
    builder, known = torchvision_builder(name, key), torchvision.models.list_models(package)
    if builder not in known:
        kind = package.__name__.rpartition(".")[2]
        raise ConfigError(f"{key}: {builder!r} of torchvision does no {kind}; {nearest(builder, known)}")
    return builder


def build_published(builder: str, state: Mapping[str, Tensor], weights: str, key: str) -> tuple[nn.Module, int]:
    """torchvision's network, still with drawn weights, in the form that a state dict has, and its number of classes.

    Classes, keypoints, an auxiliary classifier and frozen norms are those of ``state``, so that the file of a
    fine-tuning script needs no more words than its builder's name.

    Args:
        weights: the file of ``state``, or a ``torchvision://`` name.
        key: the config key that says so, for errors.

    Raises:
        ConfigError: ``state`` has no scores of classes where the network has them.
    """
    with torch.device("meta"):
        own = _made(builder, num_classes=2).state_dict()
    layer = next(name for name in _CLASS_LAYERS if name in own)
    if layer not in state:
        raise ConfigError(f"{key}: {weights} has no {layer}, expected the weights of torchvision's {builder}")
    options = {"num_classes": max(2 * len(state[layer]) // len(own[layer]), 1)}
    if _KEYPOINTS in state and _KEYPOINTS in own:
        options["num_keypoints"] = len(state[_KEYPOINTS])
    if any(name.startswith("aux_classifier.") for name in state) and "classifier.4.bias" in own:
        options["aux_loss"] = True
    model = _made(builder, **options)
    if _AUXILIARY in state and _AUXILIARY in model.state_dict():  # fine-tuned files may have left it as it was
        last = model.aux_classifier[-1]
        model.aux_classifier[-1] = nn.Conv2d(last.in_channels, len(state[_AUXILIARY]), 1)
    if "backbone.body.conv1.weight" in own and not any(name.endswith("num_batches_tracked") for name in state):
        _freeze_norms(model.backbone.body, _norm_eps(builder, weights, key))
    return model, options["num_classes"]


def categories(name: str, key: str) -> list[str]:
    """The class names of published weights in the order of the outputs; none for a file of the user's own."""
    return list(torchvision_weights(name, key).meta["categories"]) if name.startswith(TORCHVISION) else []


def pixel_statistics(builder: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and deviation of pixels 0..255, RGB, that a segmentation network of torchvision expects."""
    seen = torchvision.models.get_model_weights(builder)["DEFAULT"].transforms()
    return [255 * x for x in seen.mean], [255 * x for x in seen.std]


def _made(builder: str, **options: Any) -> nn.Module:
    return torchvision.models.get_model(builder, weights=None, weights_backbone=None, **options)


def _norm_eps(builder: str, weights: str, key: str) -> float:
    """The epsilon that frozen norms were trained with; a file of one's own is taken for one that began with published
    weights, as fine-tuning scripts do.
    """
    if builder not in _WITHOUT_EPS:
        return 1e-5
    if weights.startswith(TORCHVISION):
        return 0.0 if torchvision_weights(weights, key).name == _OF_WEIGHTS else 1e-5
    logger.info(
        "%s: the frozen norms of %s have no epsilon, as behind torchvision's published weights; had it begun with an "
        "ImageNet backbone alone they would have 1e-5",
        *(key, weights),
    )
    return 0.0


def _freeze_norms(module: nn.Module, eps: float) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features, eps))
        else:
            _freeze_norms(child, eps)
