"""The keys that kd2 declares, by framework: one line a key, from which defaults, checks and ``docs/config.md`` come."""

from kd2.config.keys import detectron2, timm, torchvision
from kd2.config.keys.key import Key, add_defaults

KEYS: dict[str, dict[str, Key]] = {
    framework: {key.name: key for key in table.KEYS}
    for framework, table in (("detectron2", detectron2), ("torchvision", torchvision), ("timm", timm))
}

__all__ = ["KEYS", "Key", "add_defaults"]
