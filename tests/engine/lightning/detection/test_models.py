"""Detectors from a config."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import contextlib

import torch
from torch import nn
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from kd2.distill import ConfigError
from kd2.engine.lightning.detection.models import build_detector

from ....helpers import tiny_detection as tiny

ARCHITECTURES = ["RetinaNet", "FCOS", "FasterRCNN", "MaskRCNN"]
BACKBONES = ["resnet18", "mobilenet_v3_large", "timm/test_resnet"]


def build(**model) -> nn.Module:
    """A detector of width 64 with some entries of MODEL changed."""
    torch.manual_seed(0)
    return build_detector(tiny.config({"MODEL": {"FPN": {"OUT_CHANNELS": 64}} | model}))


def backbone(**entries) -> nn.Module:
    return build(BACKBONE={"NAME": "resnet18"} | entries).backbone


def norms(module: nn.Module) -> set[str]:
    kinds = (nn.BatchNorm2d, nn.GroupNorm, FrozenBatchNorm2d)
    return {type(m).__name__ for m in module.modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_detector_trains_and_detects(architecture, name):
    model = build(META_ARCHITECTURE=architecture, BACKBONE={"NAME": name})
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 80, dtype=torch.uint8)}
    loss = sum(model([torch.rand(3, 64, 80)], [target]).values())
    loss.backward()
    found = model.eval()([torch.rand(3, 64, 80)])[0]
    assert torch.isfinite(loss) and {"boxes", "scores", "labels"} <= set(found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_gets_a_gradient(architecture):
    """A parameter that no loss reaches would stop DistributedDataParallel."""
    model = build(META_ARCHITECTURE=architecture)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    target = {"boxes": boxes, "labels": torch.tensor([1]), "masks": torch.ones(1, 64, 80, dtype=torch.uint8)}
    sum(model([torch.rand(3, 64, 80)], [target]).values()).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize(
    ("architecture", "strides"), [("RetinaNet", (8, 16, 32, 64, 128)), ("FasterRCNN", (4, 8, 16, 32, 64))]
)
def test_levels_have_the_architectures_strides(architecture, strides, name):
    maps = build(META_ARCHITECTURE=architecture, BACKBONE={"NAME": name}).backbone(torch.zeros(2, 3, 128, 256))
    assert [tuple(x.shape) for x in maps.values()] == [(2, 64, 128 // s, 256 // s) for s in strides]


@pytest.mark.parametrize(
    ("architecture", "constructor", "sizes"),
    [
        ("RetinaNet", detection.retinanet_resnet50_fpn, None),
        ("FCOS", detection.fcos_resnet50_fpn, None),
        ("FasterRCNN", detection.fasterrcnn_resnet50_fpn, [[32], [64], [128], [256], [512]]),
        ("MaskRCNN", detection.maskrcnn_resnet50_fpn, [[32], [64], [128], [256], [512]]),
    ],
)
def test_a_resnet_50_has_the_weights_of_torchvisions_own_detector(architecture, constructor, sizes):
    cfg = tiny.config(
        {
            "MODEL": {
                "META_ARCHITECTURE": architecture,
                "BACKBONE": {"NAME": "resnet50"},
                "FPN": {"OUT_CHANNELS": 256},
                "RETINANET": {"NUM_CLASSES": 91, "NUM_CONVS": 4},
                "ROI_HEADS": {"NUM_CLASSES": 90},
                "ANCHOR_GENERATOR": {"SIZES": sizes or [[x] * 3 for x in (32, 64, 128, 256, 512)]},
            }
        }
    )
    with torch.device("meta"):
        ours, theirs = build_detector(cfg), constructor(weights=None, weights_backbone=None)
    shapes = [{name: tuple(x.shape) for name, x in model.state_dict().items()} for model in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("name", "channels"), [("resnet34", 512), ("resnet101", 2048)])
def test_larger_resnets_build(name, channels):
    with torch.device("meta"):
        assert backbone(NAME=name).body.layer4[-1].bn2.num_features * (channels // 512) == channels


def test_small_mobilenet_runs():
    maps = backbone(NAME="mobilenet_v3_small")(torch.zeros(1, 3, 64, 64))
    assert [x.shape[2] for x in maps.values()] == [8, 4, 2, 1, 1]


def test_a_tagged_timm_name_is_known():
    assert backbone(NAME="timm/test_resnet.r160_in1k").out_channels == 64


def test_channels_last_timm_networks_give_nchw_maps():
    maps = backbone(NAME="timm/test_convnext")(torch.zeros(1, 3, 64, 64))
    assert [tuple(x.shape[1:]) for x in maps.values()][:3] == [(64, 8, 8), (64, 4, 4), (64, 2, 2)]


@pytest.mark.parametrize(
    ("norm", "kind"), [("BN", "BatchNorm2d"), ("GN", "GroupNorm"), ("FrozenBN", "FrozenBatchNorm2d")]
)
def test_the_backbones_norm_is_chosen(norm, kind):
    assert norms(backbone(NORM=norm).body) == {kind}


@pytest.mark.parametrize(("norm", "kinds"), [("", set()), ("BN", {"BatchNorm2d"}), ("GN", {"GroupNorm"})])
def test_the_fpns_norm_is_chosen(norm, kinds):
    assert norms(build(FPN={"OUT_CHANNELS": 32, "NORM": norm}).backbone.fpn) == kinds


@pytest.mark.parametrize(("norm", "kinds"), [("", set()), ("BN", {"BatchNorm2d"}), ("GN", {"GroupNorm"})])
def test_the_heads_norm_is_chosen(norm, kinds):
    assert norms(build(RETINANET={"NORM": norm}).head) == kinds


def test_batch_norm_in_the_heads_gives_in_evaluation_what_it_learned_of_each_level():
    model = build(FPN={"OUT_CHANNELS": 16}, RETINANET={"NORM": "BN"}, BACKBONE={"NAME": "timm/test_resnet"})
    maps = [torch.randn(4, 16, side, side) * side for side in (16, 8, 4, 2, 2)]
    for norm in (m for m in model.head.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None
    with torch.no_grad():
        trained = model.head(maps)["cls_logits"]
        # As for a tap: a pass that ends within the heads.
        with contextlib.suppress(RuntimeError):
            model.head([*maps[:2], torch.zeros(4, 3, 2, 2)])
        torch.testing.assert_close(model.eval().head(maps)["cls_logits"], trained, rtol=0.1, atol=0.01)


@pytest.mark.parametrize("architecture", ["RetinaNet", "FCOS"])
@pytest.mark.parametrize("count", [1, 3, 4])
def test_the_heads_depth_is_chosen(architecture, count):
    head = build(META_ARCHITECTURE=architecture, RETINANET={"NUM_CONVS": count}).head
    for tower in (head.classification_head.conv, head.regression_head.conv):
        assert sum(isinstance(m, nn.Conv2d) for m in tower.modules()) == count


def test_the_heads_of_an_rcnn_have_the_widths_of_the_config():
    narrow = {"ROI_BOX_HEAD": {"FC_DIM": 24}, "ROI_MASK_HEAD": {"CONV_DIM": 8}}
    heads = build(META_ARCHITECTURE="MaskRCNN", **narrow).roi_heads
    assert (heads.box_head.fc6.out_features, heads.box_predictor.cls_score.in_features) == (24, 24)
    assert [m.out_channels for m in heads.mask_head.modules() if isinstance(m, nn.Conv2d)] == [8] * 4
    assert (heads.mask_predictor.conv5_mask.out_channels, heads.mask_predictor.mask_fcn_logits.in_channels) == (8, 8)
    usual, own = build(META_ARCHITECTURE="MaskRCNN").roi_heads, build(META_ARCHITECTURE="MaskRCNN", **narrow).roi_heads
    assert usual.box_predictor.bbox_pred.out_features == own.box_predictor.bbox_pred.out_features
    assert usual.mask_predictor.mask_fcn_logits.out_channels == own.mask_predictor.mask_fcn_logits.out_channels


def test_narrow_heads_train_and_find():
    model = build(META_ARCHITECTURE="MaskRCNN", ROI_BOX_HEAD={"FC_DIM": 24}, ROI_MASK_HEAD={"CONV_DIM": 8})
    boxes = torch.tensor([[4.0, 4.0, 40.0, 40.0]])
    target = {
        "boxes": boxes,
        "labels": torch.ones(1, dtype=torch.int64),
        "masks": torch.ones(1, 64, 64, dtype=torch.uint8),
    }
    sum(model.train()([torch.rand(3, 64, 64)], [target]).values()).backward()
    assert all(p.grad is not None for p in model.roi_heads.parameters())
    (found,) = model.eval()([torch.rand(3, 64, 64)])
    assert found["masks"].shape[1:] == (1, 64, 64)


def test_the_class_count_is_the_configs():
    assert build(RETINANET={"NUM_CLASSES": 5}).head.classification_head.num_classes == 5


def test_the_rcnns_have_a_background_class_beside():
    model = build(META_ARCHITECTURE="FasterRCNN", ROI_HEADS={"NUM_CLASSES": 5})
    assert model.roi_heads.box_predictor.cls_score.out_features == 6


def frozen(freeze_at: int) -> set[str]:
    body = backbone(FREEZE_AT=freeze_at).body
    return {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}


def test_nothing_is_frozen_at_0():
    assert frozen(0) == set()


def test_the_stem_is_frozen_at_1():
    assert frozen(1) == {"conv1", "bn1"}


def test_the_stem_and_first_stage_are_frozen_at_2():
    assert frozen(2) == {"conv1", "bn1", "layer1"}


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"META_ARCHITECTURE": "RetinaNt"}, r"MODEL.META_ARCHITECTURE is 'RetinaNt'; did you mean RetinaNet\?"),
        ({"BACKBONE": {"NAME": "resnet19"}}, "MODEL.BACKBONE.NAME is 'resnet19'; did you mean .*resnet18"),
        ({"BACKBONE": {"NAME": "timm/resnet18x"}}, ".*NAME is 'resnet18x'; did you mean .*resnet18"),
        ({"BACKBONE": {"NAME": "timm/test_vit"}}, ".*NAME: timm's 'test_vit' has maps of strides .*, an FPN needs"),
        ({"BACKBONE": {"NORM": "GN"}}, "MODEL.BACKBONE.NORM is 'GN'"),
        ({"META_ARCHITECTURE": "FCOS", "FPN": {"OUT_CHANNELS": 48}}, ".*CHANNELS is 48; FCOS needs a multiple of 32"),
        ({"BACKBONE": {"FREEZE_AT": 1}}, ".*FREEZE_AT is only known for ResNets, expected 0 for 'timm/test_resnet'"),
        ({"ANCHOR_GENERATOR": {"SIZES": [[8]]}}, "MODEL.ANCHOR_GENERATOR has 1 lists of SIZES and 1 of .*, expected 5"),
    ],
)
def test_what_the_library_does_not_have_is_refused(model, text):
    with pytest.raises(ConfigError, match=f"^{text}"):
        build(**model)


def test_backbone_weights_are_loaded_from_a_file(tmp_path):
    body = backbone().body
    torch.save({"model": {k: torch.full_like(v, 2) for k, v in body.state_dict().items()}}, tmp_path / "body.pth")
    assert (backbone(WEIGHTS=str(tmp_path / "body.pth")).body.conv1.weight == 2).all()


def test_missing_backbone_weights_name_their_key(tmp_path):
    with pytest.raises(ConfigError, match="^MODEL.BACKBONE.WEIGHTS: no file .*body.pth"):
        backbone(WEIGHTS=str(tmp_path / "body.pth"))
