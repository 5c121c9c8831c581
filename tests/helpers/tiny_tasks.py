"""A network of each task that torchvision or timm also builds alone, distilled from the teachers of the tests."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import timm
import torchvision
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from . import tiny_classification, tiny_detection, tiny_segmentation
from .lightning_runs import merged

# A constant learning rate: the schedule then does not depend on the length of the run.
CONSTANT = {
    "SOLVER": {"WARMUP_ITERS": 0, "STEPS": [], "LR_SCHEDULER_NAME": "WarmupMultiStepLR", "CHECKPOINT_PERIOD": 2},
}
_SCORES = ["score=classifier"]


@dataclass(frozen=True)
class TinyTask:
    """A task, its configs and its plain network.

    Attributes:
        module: of the tiny configs.
        data, teacher: folders.
        kind: of its classes in a checkpoint.
        changes: what makes the config one of the plain network.
        plain: builds that network without kd2.
    """

    module: ModuleType
    data: Path
    teacher: Path
    kind: str
    changes: dict
    plain: Callable[[], nn.Module]

    def write_config(self, folder: Path, changes: dict | None = None, name: str = "student") -> str:
        """The config of the network, distilled at a constant learning rate and tested; returns its path."""
        test = {"DATASETS": {"TEST": [self.test_set]}}
        own = merged(merged(merged(self.module.distilled(self.teacher), CONSTANT), self.changes), test)
        return self.module.write_config(folder, self.data, merged(own, changes or {}), name)

    @property
    def test_set(self) -> str:
        return {"things": "tiny", "stuff": "drawn", "images": "tiny_test"}[self.kind]

    @property
    def classes(self) -> list[str]:
        return ["box", "bar"] if self.kind == "things" else list(self.module.CLASSES)


def plain_retinanet() -> nn.Module:
    """A RetinaNet on a ResNet-18, of torchvision's constructors."""
    backbone = _fpn({"layer2": "0", "layer3": "1", "layer4": "2"}, [128, 256, 512], LastLevelP6P7(16, 16))
    shape = {"min_size": 64, "max_size": 96, "_skip_resize": True}
    return RetinaNet(backbone, 2, anchor_generator=_anchors(), head=RetinaNetHead(16, 3, 2), **shape)


def plain_faster_rcnn() -> nn.Module:
    """The same for a Faster R-CNN."""
    layers = {"layer1": "0", "layer2": "1", "layer3": "2", "layer4": "3"}
    shape = {"min_size": 64, "max_size": 96, "_skip_resize": True}
    backbone = _fpn(layers, [64, 128, 256, 512], LastLevelMaxPool())
    return FasterRCNN(backbone, 3, rpn_anchor_generator=_anchors(), box_batch_size_per_image=16, **shape)


def detection(data: Path, teacher: Path) -> TinyTask:
    """A RetinaNet on a ResNet-18."""
    changes = {"MODEL": {"BACKBONE": {"NAME": "resnet18"}, "RETINANET": {"NUM_CONVS": 4}}}
    return TinyTask(tiny_detection, data, teacher, "things", changes, plain_retinanet)


def segmentation(data: Path, teacher: Path) -> TinyTask:
    """LR-ASPP on MobileNetV3."""
    backbone = {"NAME": "mobilenet_v3_large", "ARGS": {"output_stride": None, "dilated": True}}
    head = {"AUX_WEIGHT": 0.0, "CONVS_DIM": 128}
    changes = {
        "MODEL": {"META_ARCHITECTURE": "LRASPP", "BACKBONE": backbone, "SEM_SEG_HEAD": head},
        "KD": {"STUDENT": {"TAPS": _SCORES}, "TEACHER": {"TAPS": _SCORES}, "LOSSES": {"pairwise": None}},
    }

    def plain() -> nn.Module:
        return torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=5
        )

    return TinyTask(tiny_segmentation, data, teacher, "stuff", changes, plain)


def classification(data: Path, teacher: Path) -> TinyTask:
    """timm's smallest ResNet."""
    return TinyTask(
        tiny_classification, data, teacher, "images", {}, lambda: timm.create_model("test_resnet", num_classes=3)
    )


def _fpn(layers: dict[str, str], channels: list[int], extra: nn.Module) -> nn.Module:
    return BackboneWithFPN(resnet18(weights=None), layers, channels, 16, extra_blocks=extra)


def _anchors() -> AnchorGenerator:
    return AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5)
