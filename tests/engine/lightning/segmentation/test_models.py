"""Segmentation networks from a config."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("timm", reason="needs timm")

import torch
import torchvision

from kd2.distill import ConfigError, Probe, probed
from kd2.engine.lightning.detection.experiment import DetectionExperiment
from kd2.engine.lightning.run import experiment_for
from kd2.engine.lightning.segmentation.experiment import SegmentationExperiment
from kd2.engine.lightning.segmentation.models import ARCHITECTURES, build_segmenter

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection
from ....helpers import tiny_segmentation as tiny

DILATED = {"replace_stride_with_dilation": [False, True, True]}
# The input of the last convolution, its channels; pixels a cell of the scores.
FEATURES = {
    "PSPNet": ("classifier.bottleneck", 16, 8),
    "DeepLabV3": ("classifier.3", 256, 8),
    "FCN": ("classifier.3", 24, 8),
    "LRASPP": ("classifier.cbr", 16, 8),
    "SemSegFPN": ("classifier.sum", 16, 4),
    "ESPNetC": ("backbone:out", 256, 8),
    "ESPNet": ("classifier.fuse1", 5, 1),
}


def model_keys(name: str, **changes) -> dict:
    own = {"META_ARCHITECTURE": name, "SEM_SEG_HEAD": {"AUX_WEIGHT": 0.0}, "FPN": {"OUT_CHANNELS": 16}}
    if name == "SemSegFPN":
        own["BACKBONE"] = {"ARGS": {"output_stride": 32}}
    return runs.merged(own, changes)


def build(name: str, **changes):
    return build_segmenter(tiny.config({"MODEL": model_keys(name, **changes)}))


def parameters(**model) -> tuple[int, int]:
    """Of the network with and without its auxiliary head, counted without memory."""
    cfg = tiny.config({"MODEL": model})
    with torch.device("meta"):
        network = build_segmenter(cfg)
    total = sum(p.numel() for p in network.parameters())
    return total, total - sum(p.numel() for p in network.aux_classifier.parameters())


def test_every_architecture_is_tested():
    assert set(FEATURES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", FEATURES)
def test_the_documented_taps(name):
    path, channels, stride = FEATURES[name]
    model, size = build(name), (64, 96)
    names = ["score=classifier", f"feature={path}"]
    taps = probed(model, names, Probe(lambda: model(torch.zeros(1, 3, *size)), size), "TAPS")
    (score,), (feature,) = taps.specs["score"], taps.specs["feature"]
    assert (score.channels, score.stride) == (5, (stride, stride)) and feature.channels == channels


@pytest.mark.parametrize("name", ["PSPNet", "DeepLabV3", "FCN"])
def test_an_auxiliary_head_in_training_alone(name):
    model, images = build(name, SEM_SEG_HEAD={"AUX_WEIGHT": 0.4}), torch.zeros(2, 3, 48, 48)
    assert {key: tuple(x.shape) for key, x in model(images).items()} == {"out": (2, 5, 6, 6), "aux": (2, 5, 6, 6)}
    assert set(model.eval()(images)) == {"out"}


def test_parameters_of_the_papers_teacher():
    """PSPNet on a ResNet-101 with three convolutions in the stem, 19 classes: 70.44 M."""
    head = {"CONVS_DIM": 512, "NUM_CLASSES": 19}
    backbone = {"NAME": "timm/resnet101", "ARGS": {"stem_type": "deep", "stem_width": 64}}
    assert parameters(BACKBONE=backbone, SEM_SEG_HEAD=head)[0] == 70_436_838


def test_parameters_of_the_released_student():
    """PSPNet on such a ResNet-18: 13.07 M, 12.77 M without the auxiliary head."""
    head = {"CONVS_DIM": 128, "NUM_CLASSES": 19}
    backbone = {"NAME": "timm/resnet18", "ARGS": {"stem_type": "deep", "stem_width": 64}}
    assert parameters(BACKBONE=backbone, SEM_SEG_HEAD=head) == (13_068_134, 12_770_515)


def test_a_resnet_of_half_width():
    args = {"stem_type": "deep", "stem_width": 32, "channels": [32, 64, 128, 256]}
    assert build("PSPNet", BACKBONE={"NAME": "timm/resnet18", "ARGS": args}).backbone.channels == {
        "aux": 128,
        "out": 256,
    }


@pytest.mark.parametrize(
    "name, theirs, backbone, args",
    [
        ("DeepLabV3", "deeplabv3_resnet50", "resnet50", DILATED),
        ("FCN", "fcn_resnet50", "resnet50", DILATED),
        ("DeepLabV3", "deeplabv3_mobilenet_v3_large", "mobilenet_v3_large", {"dilated": True}),
        ("LRASPP", "lraspp_mobilenet_v3_large", "mobilenet_v3_large", {"dilated": True}),
    ],
)
def test_key_names_and_shapes_are_torchvisions(name, theirs, backbone, args):
    head = {"NUM_CLASSES": 21, "CONVS_DIM": 128, "AUX_WEIGHT": 0.0 if name == "LRASPP" else 0.5}
    cfg = tiny.config({"MODEL": {"META_ARCHITECTURE": name, "SEM_SEG_HEAD": head, "BACKBONE": {"NAME": backbone}}})
    del cfg.MODEL.BACKBONE.ARGS["output_stride"]
    cfg.MODEL.BACKBONE.ARGS.update(args)
    options = {} if name == "LRASPP" else {"aux_loss": True}
    with torch.device("meta"):
        own = build_segmenter(cfg).state_dict()
        other = torchvision.models.get_model(theirs, weights_backbone=None, num_classes=21, **options).state_dict()
    assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in other.items()}


def test_images_are_normalized_and_padded_with_the_mean():
    model = build("ESPNetC", PIXEL_MEAN=[1.0, 2.0, 3.0], PIXEL_STD=[2.0, 2.0, 4.0])
    image = torch.tensor([5, 6, 7], dtype=torch.uint8).reshape(3, 1, 1)
    batch = model.normalized([image], (1, 2))
    assert batch[0, :, 0].tolist() == [[2.0, 0.0], [2.0, 0.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"META_ARCHITECTURE": "PSPnet"}, "MODEL.META_ARCHITECTURE is 'PSPnet'; did you mean PSPNet"),
        (
            {"META_ARCHITECTURE": "ESPNet", "SEM_SEG_HEAD": {"NUM_CLASSES": 4, "AUX_WEIGHT": 0.0}},
            "ESPNet needs 5 classes or more, found 4; ESPNet-C takes any",
        ),
        (
            {"BACKBONE": {"NAME": "resnet18"}},
            "MODEL.BACKBONE.ARGS {'output_stride': 8} does not suit 'resnet18': .*stride",
        ),
        (
            {"BACKBONE": {"ARGS": {"output_stride": 7}}},
            "MODEL.BACKBONE.ARGS {'output_stride': 7} does not suit 'test",
        ),
        (
            {"BACKBONE": {"NAME": "timm/test_resnet9"}},
            "MODEL.BACKBONE.NAME is 'test_resnet9'; did you mean test",
        ),
        ({"BACKBONE": {"NAME": "vgg16"}}, "MODEL.BACKBONE.NAME is 'vgg16'; choices: .*timm/NAME"),
    ],
)
def test_what_cannot_be_built_is_named(changes, text):
    with pytest.raises(ConfigError, match=f"^{text}"):
        build_segmenter(tiny.config({"MODEL": changes}))


def test_basic_blocks_of_torchvision_are_not_dilated():
    cfg = tiny.config({"MODEL": {"BACKBONE": {"NAME": "resnet18"}}})
    del cfg.MODEL.BACKBONE.ARGS["output_stride"]
    cfg.MODEL.BACKBONE.ARGS.update(DILATED)
    with pytest.raises(ConfigError, match="^MODEL.BACKBONE.ARGS .* does not suit 'resnet18': Dilation > 1 not"):
        build_segmenter(cfg)


def test_the_architecture_picks_the_experiment():
    assert type(experiment_for(tiny.config())) is SegmentationExperiment
    assert type(experiment_for(tiny_detection.config())) is DetectionExperiment
