"""A folder of images beside a folder of labels, described by an entry of ``DATASETS.CUSTOM``."""

from collections.abc import Mapping, Sequence
from typing import Any

from kd2.data.root import existing
from kd2.data.segmentation.class_lists import read_class_list
from kd2.data.segmentation.class_names import Color
from kd2.data.segmentation.labels import MOST_CLASSES, Labels, packed
from kd2.data.segmentation.layouts import Layout
from kd2.distill import IGNORE_LABEL, ConfigError, nearest

NEEDED = {"IMAGES", "LABELS", "CLASSES"}
OPTIONAL = {"MAP", "IGNORE", "IMAGE_SUFFIX", "LABEL_SUFFIX", "LIST"}
_OTHERS = "others"
_RAW_IDS = "labelIds.png"


def read_folders(name: str, entry: Mapping[str, Any], where: str) -> Layout | None:
    """The layout of an entry with IMAGES, LABELS and CLASSES; None for other entries.

    Args:
        where: the entry's config key, for errors.

    Raises:
        ConfigError: a value of the wrong kind, or a MAP or IGNORE that fits neither the classes nor each other.
        DataError: a missing folder or file.
    """
    if not NEEDED <= set(entry) <= NEEDED | OPTIONAL:
        return None
    for key in {"IMAGES", "LABELS", "IMAGE_SUFFIX", "LABEL_SUFFIX", "LIST"} & set(entry):
        if not isinstance(entry[key], str):
            raise ConfigError(f"{where}.{key} is {entry[key]!r}, expected a text")
    classes, meaning = _classes(name, entry, where)
    if "MAP" not in entry and entry.get("LABEL_SUFFIX", "").endswith(_RAW_IDS):
        raise ConfigError(
            f"{where}.LABEL_SUFFIX is {entry['LABEL_SUFFIX']!r}: such files hold Cityscapes' raw ids, which are no "
            "indices of classes; expected MAP ({7: road, ...}), or CITYSCAPES and SPLIT in place of IMAGES and LABELS"
        )
    reader, colors = _reader({"MAP": meaning, **entry} if meaning else entry, classes, where)
    return Layout(
        existing(name, entry, "IMAGES"),
        existing(name, entry, "LABELS"),
        classes,
        reader,
        entry.get("IMAGE_SUFFIX", ""),
        entry.get("LABEL_SUFFIX", ".png"),
        existing(name, entry, "LIST") if entry.get("LIST") else "",
        colors,
    )


def _classes(name: str, entry: Mapping[str, Any], where: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The class names, and the MAP of a file that has one."""
    names: Any = entry["CLASSES"]
    meaning: dict[str, str] = {}
    if isinstance(names, str):
        names, meaning = read_class_list(existing(name, entry, "CLASSES"))
    good = isinstance(names, (list, tuple)) and all(isinstance(n, str) for n in names)
    if not good or not 1 <= len(set(names)) == len(names) <= MOST_CLASSES:
        raise ConfigError(
            f"{where}.CLASSES is {names!r}, expected a text file or a list of 1 to {MOST_CLASSES} different names"
        )
    return tuple(names), meaning


def _reader(entry: Mapping[str, Any], classes: Sequence[str], where: str) -> tuple[Labels, tuple[Color, ...]]:
    """How labels are read, and the colors of the classes when MAP names colors."""
    meaning = entry.get("MAP", {index: index for index in range(len(classes))})
    if not isinstance(meaning, Mapping) or not meaning:
        raise ConfigError(f'{where}.MAP is {meaning!r}, expected a group: value or "red,green,blue" -> class')
    mapped = {_value(key, f"{where}.MAP"): _class(target, classes, f"{where}.MAP") for key, target in meaning.items()}
    kinds = {isinstance(value, tuple) for value in mapped}
    if len(kinds) > 1:
        raise ConfigError(f"{where}.MAP has both numbers and colors, expected one kind")
    colors = kinds.pop()
    ignored = entry.get("IGNORE", [] if colors else [IGNORE_LABEL])
    if not isinstance(ignored, (list, tuple)):
        raise ConfigError(f"{where}.IGNORE is {ignored!r}, expected a list of values, such as [11, 255]")
    ignored_values = [_value(value, f"{where}.IGNORE") for value in ignored if value != _OTHERS]
    for value in ignored_values:
        if isinstance(value, tuple) != colors:
            kind = "colors" if colors else "numbers"
            raise ConfigError(f"{where}.IGNORE has {value!r}, expected {kind} as in the files")
        if value in mapped:
            raise ConfigError(f"{where}.IGNORE has {value!r}, which is the class {classes[mapped[value]]!r}")
    table = {_code(value): index for value, index in mapped.items()}
    reader = Labels(table, [_code(value) for value in ignored_values], _OTHERS in ignored, colors)
    first = {index: value for value, index in reversed(mapped.items()) if isinstance(value, tuple)}
    return reader, tuple(first[i] for i in range(len(classes))) if len(first) == len(classes) else ()


def _code(value: int | Color) -> int:
    return packed(value) if isinstance(value, tuple) else value


def _value(value: Any, where: str) -> int | Color:
    """A value in a label file: 0..65535, or a color from "red,green,blue"."""
    try:
        numbers = [int(number) for number in str(value).split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1 and 0 <= numbers[0] < 1 << 16:
        return numbers[0]
    if len(numbers) == 3 and all(0 <= n < 256 for n in numbers):
        return numbers[0], numbers[1], numbers[2]
    raise ConfigError(f'{where} has {value!r}, expected a number from 0 to 65535 or a color "red,green,blue"')


def _class(target: Any, classes: Sequence[str], where: str) -> int:
    if isinstance(target, bool):
        raise ConfigError(f"{where} leads to {target}: YAML reads yes, no, on and off so; write the name in quotes")
    if isinstance(target, int) and 0 <= target < len(classes):
        return target
    if target in classes:
        return classes.index(target)
    hint = nearest(target, classes)
    raise ConfigError(f"{where} leads to {target!r}, no class or index below {len(classes)}; {hint}")
