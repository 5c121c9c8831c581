"""Names of published weights: where their files lie, and under which terms.

``COCO-Detection/retinanet_R_101_FPN_3x.yaml`` and ``detectron2://...`` are Detectron2's; ``torchvision://NAME`` is a
builder of torchvision with its default weights and ``torchvision://NAME/WEIGHTS`` with a member of its weights enum;
``timm://NAME`` is a network of timm with its tag.
"""

from dataclasses import dataclass
from typing import Any

from kd2.distill import ConfigError, nearest
from kd2.zoo import detectron2

TORCHVISION, TIMM = "torchvision://", "timm://"


@dataclass(frozen=True)
class Published:
    """The address of a file, and a note on its license."""

    address: str
    license: str


def published(name: str, key: str) -> Published | None:
    """What a name or an address means; None for a path.

    Args:
        key: for errors.

    Raises:
        ConfigError: a name that its zoo does not have, or that has no weights; no address.
    """
    if name.startswith("detectron2://") or detectron2.is_name(name):
        return Published(detectron2.address(name, key), detectron2.LICENSE)
    if name.startswith(TORCHVISION):
        return Published(torchvision_weights(name, key).url, "BSD-3-Clause code; the terms of the training data hold")
    if name.startswith(TIMM):
        return _of_timm(name, key)
    if "://" not in name:
        return None
    if not name.startswith(("http://", "https://")):
        raise ConfigError(f"{key}: {name} is no address, expected one that begins with https:// or http://")
    return Published(name, "see its publisher")


def torchvision_builder(name: str, key: str) -> str:
    """The builder of a ``torchvision://`` name; raises ConfigError naming ``key`` for one that torchvision lacks."""
    import torchvision

    builder = name.removeprefix(TORCHVISION).partition("/")[0]
    known = torchvision.models.list_models()
    if builder not in known:
        raise ConfigError(f"{key}: torchvision has no {builder!r}; {nearest(builder, known)}")
    return builder


def torchvision_weights(name: str, key: str) -> Any:
    """The member of torchvision's weights enum that a ``torchvision://`` name means.

    Raises:
        ConfigError: no such builder or member; names ``key``.
    """
    import torchvision

    builder, member = torchvision_builder(name, key), name.removeprefix(TORCHVISION).partition("/")[2]
    known = torchvision.models.get_model_weights(builder).__members__
    if (member or "DEFAULT") not in known:
        raise ConfigError(f"{key}: {builder} of torchvision has no weights {member!r}; {nearest(member, list(known))}")
    return known[member or "DEFAULT"]


def zoo_classes(name: str) -> list[str]:
    """The class names of the objects that weights of Detectron2's zoo find, in the order of the outputs.

    None for other names, addresses and paths, and for weights of proposals or LVIS.
    """
    return detectron2.classes(name, _coco()) if detectron2.is_name(name) or "://" in name else []


def _coco() -> list[str]:
    """COCO's 80 names, which torchvision's detectors know among the 91 numbers of its categories."""
    from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

    known = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [name for name in known if name not in ("__background__", "N/A")]


def _of_timm(name: str, key: str) -> Published:
    from kd2.engine.timm_backbone import pretrained

    about = pretrained(name.removeprefix(TIMM), key)
    file = about.get("hf_hub_filename", "model.safetensors")
    address = f"https://huggingface.co/{about['hf_hub_id']}/resolve/main/{file}"
    return Published(address, about.get("license", "not told"))
