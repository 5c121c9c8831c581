"""The model zoo of Detectron2: its names, where its files lie, and which classes they find."""

from collections.abc import Sequence

from kd2.distill import ConfigError, nearest

_ADDRESS = "https://dl.fbaipublicfiles.com/detectron2/"
LICENSE = "CC BY-SA 3.0 (Detectron2's MODEL_ZOO.md)"

# Folder -> config without its ending -> file below the address.
_FILES = {
    "COCO-Detection": {
        "faster_rcnn_R_50_C4_1x": "137257644/model_final_721ade.pkl",
        "faster_rcnn_R_50_DC5_1x": "137847829/model_final_51d356.pkl",
        "faster_rcnn_R_50_FPN_1x": "137257794/model_final_b275ba.pkl",
        "faster_rcnn_R_50_C4_3x": "137849393/model_final_f97cb7.pkl",
        "faster_rcnn_R_50_DC5_3x": "137849425/model_final_68d202.pkl",
        "faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
        "faster_rcnn_R_101_C4_3x": "138204752/model_final_298dad.pkl",
        "faster_rcnn_R_101_DC5_3x": "138204841/model_final_3e0943.pkl",
        "faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
        "faster_rcnn_X_101_32x8d_FPN_3x": "139173657/model_final_68b088.pkl",
        "retinanet_R_50_FPN_1x": "190397773/model_final_bfca0b.pkl",
        "retinanet_R_50_FPN_3x": "190397829/model_final_5bd44e.pkl",
        "retinanet_R_101_FPN_3x": "190397697/model_final_971ab9.pkl",
        "rpn_R_50_C4_1x": "137258005/model_final_450694.pkl",
        "rpn_R_50_FPN_1x": "137258492/model_final_02ce48.pkl",
        "fast_rcnn_R_50_FPN_1x": "137635226/model_final_e5f7ce.pkl",
    },
    "COCO-InstanceSegmentation": {
        "mask_rcnn_R_50_C4_1x": "137259246/model_final_9243eb.pkl",
        "mask_rcnn_R_50_DC5_1x": "137260150/model_final_4f86c3.pkl",
        "mask_rcnn_R_50_FPN_1x": "137260431/model_final_a54504.pkl",
        "mask_rcnn_R_50_C4_3x": "137849525/model_final_4ce675.pkl",
        "mask_rcnn_R_50_DC5_3x": "137849551/model_final_84107b.pkl",
        "mask_rcnn_R_50_FPN_3x": "137849600/model_final_f10217.pkl",
        "mask_rcnn_R_101_C4_3x": "138363239/model_final_a2914c.pkl",
        "mask_rcnn_R_101_DC5_3x": "138363294/model_final_0464b7.pkl",
        "mask_rcnn_R_101_FPN_3x": "138205316/model_final_a3ec72.pkl",
        "mask_rcnn_X_101_32x8d_FPN_3x": "139653917/model_final_2d9806.pkl",
    },
    "new_baselines": {
        "mask_rcnn_R_50_FPN_100ep_LSJ": "42047764/model_final_bb69de.pkl",
        "mask_rcnn_R_50_FPN_200ep_LSJ": "42047638/model_final_89a8d3.pkl",
        "mask_rcnn_R_50_FPN_400ep_LSJ": "42019571/model_final_14d201.pkl",
        "mask_rcnn_R_101_FPN_100ep_LSJ": "42025812/model_final_4f7b58.pkl",
        "mask_rcnn_R_101_FPN_200ep_LSJ": "42131867/model_final_0bb7ae.pkl",
        "mask_rcnn_R_101_FPN_400ep_LSJ": "42073830/model_final_f96b26.pkl",
        "mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ": "42047771/model_final_b7fbab.pkl",
        "mask_rcnn_regnetx_4gf_dds_FPN_200ep_LSJ": "42132721/model_final_5d87c1.pkl",
        "mask_rcnn_regnetx_4gf_dds_FPN_400ep_LSJ": "42025447/model_final_f1362d.pkl",
        "mask_rcnn_regnety_4gf_dds_FPN_100ep_LSJ": "42047784/model_final_6ba57e.pkl",
        "mask_rcnn_regnety_4gf_dds_FPN_200ep_LSJ": "42047642/model_final_27b9c1.pkl",
        "mask_rcnn_regnety_4gf_dds_FPN_400ep_LSJ": "42045954/model_final_ef3a80.pkl",
    },
    "COCO-Keypoints": {
        "keypoint_rcnn_R_50_FPN_1x": "137261548/model_final_04e291.pkl",
        "keypoint_rcnn_R_50_FPN_3x": "137849621/model_final_a6e10b.pkl",
        "keypoint_rcnn_R_101_FPN_3x": "138363331/model_final_997cc7.pkl",
        "keypoint_rcnn_X_101_32x8d_FPN_3x": "139686956/model_final_5ad38f.pkl",
    },
    "COCO-PanopticSegmentation": {
        "panoptic_fpn_R_50_1x": "139514544/model_final_dbfeb4.pkl",
        "panoptic_fpn_R_50_3x": "139514569/model_final_c10459.pkl",
        "panoptic_fpn_R_101_3x": "139514519/model_final_cafdb1.pkl",
    },
    "LVISv0.5-InstanceSegmentation": {
        "mask_rcnn_R_50_FPN_1x": "144219072/model_final_571f7c.pkl",
        "mask_rcnn_R_101_FPN_1x": "144219035/model_final_824ab5.pkl",
        "mask_rcnn_X_101_32x8d_FPN_1x": "144219108/model_final_5e3439.pkl",
    },
    "Cityscapes": {
        "mask_rcnn_R_50_FPN": "142423278/model_final_af9cf5.pkl",
    },
    "PascalVOC-Detection": {
        "faster_rcnn_R_50_C4": "142202221/model_final_b1acc2.pkl",
    },
    "Misc": {
        "mask_rcnn_R_50_FPN_1x_dconv_c3-c5": "138602867/model_final_65c703.pkl",
        "mask_rcnn_R_50_FPN_3x_dconv_c3-c5": "144998336/model_final_821d0b.pkl",
        "cascade_mask_rcnn_R_50_FPN_1x": "138602847/model_final_e9d89b.pkl",
        "cascade_mask_rcnn_R_50_FPN_3x": "144998488/model_final_480dd8.pkl",
        "mask_rcnn_R_50_FPN_3x_syncbn": "169527823/model_final_3b3c51.pkl",
        "mask_rcnn_R_50_FPN_3x_gn": "138602888/model_final_dc5d9e.pkl",
        "scratch_mask_rcnn_R_50_FPN_3x_gn": "138602908/model_final_01ca85.pkl",
        "scratch_mask_rcnn_R_50_FPN_9x_gn": "183808979/model_final_da7b4c.pkl",
        "scratch_mask_rcnn_R_50_FPN_9x_syncbn": "184226666/model_final_5ce33e.pkl",
        "panoptic_fpn_R_101_dconv_cascade_gn_3x": "139797668/model_final_be35db.pkl",
        "cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv": "18131413/model_0039999_e76410.pkl",
    },
    "Detectron1-Comparisons": {
        "faster_rcnn_R_50_FPN_noaug_1x": "137781054/model_final_7ab50c.pkl",
        "mask_rcnn_R_50_FPN_noaug_1x": "137781281/model_final_62ca52.pkl",
        "keypoint_rcnn_R_50_FPN_1x": "137781195/model_final_cce136.pkl",
    },
}
# Of the other data sets, class names in the order of the outputs.
_NAMES = {
    "Cityscapes": "person rider car truck bus train motorcycle bicycle",
    "COCO-Keypoints": "person",
    "PascalVOC-Detection": (
        "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
        "sheep sofa train tvmonitor"
    ),
}


def is_name(name: str) -> bool:
    """Whether a text has the form of a name of the zoo: folder of the zoo and config, YAML or LazyConfig."""
    folder, _, config = name.partition("/")
    return folder in _FILES and config.endswith((".yaml", ".yml", ".py"))


def name_of(weights: str) -> str:
    """The name in the zoo, with ``.yaml``, of a name, of what stands behind ``detectron2://`` or of an address; empty
    for what the zoo does not have.
    """
    folder, config = [*weights.removeprefix("detectron2://").removeprefix(_ADDRESS).split("/"), ""][:2]
    config = config.removesuffix(".yaml").removesuffix(".py")
    return f"{folder}/{config}.yaml" if config in _FILES.get(folder, {}) else ""


def named_like(weights: str) -> str:
    """``name_of``, or the name whose file a path is called like."""
    file = weights.rpartition("/")[2]
    files = {path.rpartition("/")[2]: f"{x}/{name}.yaml" for x, known in _FILES.items() for name, path in known.items()}
    return name_of(weights) or files.get(file, "")


def classes(weights: str, coco: Sequence[str]) -> list[str]:
    """The class names of the objects that weights of the zoo find; none for LVIS, proposals alone and other files.

    Args:
        weights: see ``name_of``.
        coco: COCO's 80 names.
    """
    folder, _, config = name_of(weights).partition("/")
    if not folder or folder.startswith("LVIS") or config.startswith("rpn"):
        return []
    if "keypoint" in config:
        folder = "COCO-Keypoints"
    return _NAMES[folder].split() if folder in _NAMES else list(coco)


def names() -> list[str]:
    """All names that have weights, such as COCO-Detection/retinanet_R_101_FPN_3x.yaml."""
    return sorted(f"{folder}/{config}.yaml" for folder, configs in _FILES.items() for config in configs)


def address(name: str, key: str) -> str:
    """The address of the weights of a zoo name, or of what stands behind ``detectron2://``.

    Raises:
        ConfigError: the zoo has no weights of this name; names ``key``.
    """
    if name.startswith("detectron2://"):
        return _ADDRESS + name.removeprefix("detectron2://")
    folder, _, config = name.removesuffix(".yaml").removesuffix(".py").partition("/")
    if config not in _FILES.get(folder, {}):
        raise ConfigError(f"{key}: the zoo has no weights of {name!r}; {nearest(name, names())}")
    return f"{_ADDRESS}{folder}/{config}/{_FILES[folder][config]}"
