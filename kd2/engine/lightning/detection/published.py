"""torchvision's own detectors as teachers."""

import functools

from torch import nn
from torchvision.models import detection, mobilenet_v3_large
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteFeatureExtractorMobileNet, SSDLiteHead

from kd2.distill import ConfigError
from kd2.engine.lightning.detection.coding import BLANK
from kd2.engine.lightning.detection.exact_boxes import boxes_in_float32
from kd2.engine.lightning.published import build_published, builder_of, categories
from kd2.engine.lightning.teacher import TeacherSource
from kd2.engine.weights.checkpoint import read_weights
from kd2.engine.weights.names import TORCHVISION

# The padding of kd2's students, whose maps a teacher's are compared with.
_DIVISIBLE = 32
# Its last layers have no padding: of smaller images nothing is left for them.
_SSD300, _SMALLEST = f"{TORCHVISION}ssd300_vgg16", 257
# The builder whose channels depend on what it starts from: as published its last stage has half of MobileNetV3's, in a
# script that leaves it its default, an ImageNet backbone, all of them.
_SSDLITE, _LAST_STAGE, _PUBLISHED = "ssdlite320_mobilenet_v3_large", "backbone.features.1.3.0.weight", 480


def published_detector(source: TeacherSource, side: int) -> tuple[nn.Module, int, list[str]]:
    """The detector of a builder of torchvision, still without its weights, with its classes (without background).

    Args:
        side: pixels of the smallest training images.

    Returns:
        The model, the number of its classes and, of published weights, their names.

    Raises:
        ConfigError: no such detector; weights that are not its own; training images that are too small for it.
    """
    builder, key = builder_of(source.builder, detection, f"{source.node}.CONFIG_FILE"), source.weights_key
    state = read_weights(source.weights, key)
    model, count = build_published(builder, state, source.weights, key)
    if builder == _SSDLITE and len(state.get(_LAST_STAGE, ())) > _PUBLISHED:
        _restore_channels(model, count)
    if source.builder.startswith(_SSD300) and side < _SMALLEST:
        raise ConfigError(f"INPUT.MIN_SIZE_TRAIN: {builder} as a teacher needs {_SMALLEST} pixels a side, found {side}")
    model.transform.size_divisible = _DIVISIBLE
    background = int(isinstance(model, (detection.FasterRCNN, SSD)))
    return boxes_in_float32(model), count - background, categories(source.weights, key)[background:]


def _restore_channels(model: SSD, classes: int) -> None:
    """Give SSDlite the last stage of MobileNetV3 in its full width, and heads for it; weights are drawn."""
    norm = functools.partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
    first_part = len(model.backbone.features[0]) - 1
    body = mobilenet_v3_large(norm_layer=norm, reduced_tail=False).features
    model.backbone = SSDLiteFeatureExtractorMobileNet(body, first_part, norm)
    channels = [body[first_part].block[0].out_channels, body[-1].out_channels, 512, 256, 256, 128]
    model.head = SSDLiteHead(channels, model.anchor_generator.num_anchors_per_location(), classes, norm)


def blank_side(teacher: str) -> int:
    """The side of blank images that student and teacher take, whose maps are compared.

    Args:
        teacher: ``KD.TEACHER.CONFIG_FILE``.
    """
    return 2 * BLANK if teacher.startswith(_SSD300) else BLANK
