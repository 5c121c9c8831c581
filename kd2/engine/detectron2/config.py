"""Detectron2's config with kd2's keys, and the reading of a run's config file."""

import logging

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.projects.deeplab import add_deeplab_config

from kd2.config import add_kd_config, merge, read, resolve_teacher
from kd2.distill import ConfigError

logger = logging.getLogger(__name__)


def add_d2_config(cfg: CfgNode) -> CfgNode:
    """Add every key that this bridge reads to Detectron2's ``get_cfg()``; returns ``cfg``."""
    add_kd_config(cfg)
    # Keys of Detectron2's DeepLab heads, and of SOLVER.LR_SCHEDULER_NAME WarmupPolyLR.
    add_deeplab_config(cfg)

    # [data set name, factor] pairs for the weighted samplers; other data sets count once. Detectron2 reads the key
    # without giving it a default.
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = []

    # Evaluate segmentation window by window: [height, width] in pixels of the resized image ([]: the whole image at
    # once), and [y, x] from one window to the next.
    cfg.TEST.WINDOW = CfgNode()
    cfg.TEST.WINDOW.SIZE = []
    cfg.TEST.WINDOW.STRIDE = []

    # PSPNetHead: factor of the auxiliary head's loss, on the first of MODEL.SEM_SEG_HEAD.IN_FEATURES (0.4 in the paper;
    # 0: no such head), and the share of channels that training drops before both classifiers.
    cfg.MODEL.SEM_SEG_HEAD.AUX_WEIGHT = 0.0
    cfg.MODEL.SEM_SEG_HEAD.DROPOUT = 0.1

    # build_espnet_backbone: ESP modules that repeat at stride 4 and 8, p and q in the paper.
    cfg.MODEL.ESPNET = CfgNode()
    cfg.MODEL.ESPNET.LEVEL2_BLOCKS = 2
    cfg.MODEL.ESPNET.LEVEL3_BLOCKS = 8

    # Read by the backbones build_timm_backbone, build_timm_fpn_backbone (p2 to p6) and
    # build_retinanet_timm_fpn_backbone (p3 to p7).
    cfg.MODEL.TIMM = CfgNode()
    # Any timm model that gives feature maps of the strides 4, 8, 16 and 32, here called res2 to res5.
    cfg.MODEL.TIMM.NAME = "resnet18"
    # More arguments for timm.create_model: output_stride: 8 (dilated: strides 4, 8, 8 and 8), or of a ResNet channels,
    # stem_type and stem_width.
    cfg.MODEL.TIMM.ARGS = CfgNode(new_allowed=True)
    # Start from timm's ImageNet weights (needs network access). They expect RGB and ImageNet's mean and deviation.
    cfg.MODEL.TIMM.PRETRAINED = False
    # BN: as timm builds it. FrozenBN: constant statistics and affine weights.
    cfg.MODEL.TIMM.NORM = "BN"
    return cfg


def load_config(config_file: str, options: list[str] = ()) -> CfgNode:
    """The config of a run: Detectron2's and kd2's defaults, the file with its bases, then ``KEY VALUE`` pairs.

    ``MODEL.META_ARCHITECTURE`` becomes ``Distiller``: a file that names a plain one trains that model without losses.

    Raises:
        ConfigError: see ``kd2.config.read`` and ``merge``; CUDA is asked for and absent; losses without a Distiller.
    """
    loaded = read(config_file, options)
    cfg = merge(add_d2_config(get_cfg()), loaded)
    resolve_teacher(cfg, config_file)
    _choose_device(cfg, given="DEVICE" in loaded.get("MODEL", {}))
    _wrap_student(cfg)
    return cfg


def _choose_device(cfg: CfgNode, given: bool) -> None:
    if torch.cuda.is_available() or not cfg.MODEL.DEVICE.startswith("cuda"):
        pass
    elif given:
        raise ConfigError(f"MODEL.DEVICE is {cfg.MODEL.DEVICE!r}, but this machine has no CUDA device; use cpu")
    else:
        logger.info("MODEL.DEVICE: no CUDA device, training on the CPU")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.SOLVER.AMP.ENABLED and not cfg.MODEL.DEVICE.startswith("cuda"):
        raise ConfigError("SOLVER.AMP.ENABLED is True, Detectron2 trains in mixed precision on CUDA devices only")


def _wrap_student(cfg: CfgNode) -> None:
    name = cfg.MODEL.META_ARCHITECTURE
    if name == "Distiller":
        return
    if cfg.KD.LOSSES:
        raise ConfigError(f"KD.LOSSES is given, but MODEL.META_ARCHITECTURE is {name!r}; set it to Distiller")
    cfg.KD.STUDENT.META_ARCHITECTURE, cfg.MODEL.META_ARCHITECTURE = name, "Distiller"
