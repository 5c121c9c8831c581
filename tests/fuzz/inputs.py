"""The kinds of input that are drawn, each with the readers that a run uses."""

import io
import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torch import nn

from kd2.data.detection.coco import read_coco
from kd2.data.detection.voc import read_voc
from kd2.data.segmentation.semantic import load_semantic
from kd2.engine.weights.checkpoint import class_names, read_checkpoint, read_weights
from kd2.engine.weights.matching import load_state
from kd2.engine.weights.schema import check_run

from .driver import Read, Write
from .mutations import ODD, damaged_bytes, damaged_tree

SIZE = (8, 10)  # height, width


def picture(path: Path, size: tuple[int, int] = SIZE) -> None:
    Image.new("RGB", size[::-1], (40, 90, 200)).save(path)


# COCO JSON.

_RLE = coco_mask.encode(np.asfortranarray(np.eye(*SIZE, dtype=np.uint8)))
_SHAPES: list[Any] = [
    [[1.0, 1, 6, 1, 6, 6]],
    [[0.0, 0, 5, 0, 5, 5], [2.0, 2, 8, 2, 8, 7, 2, 7]],
    {"size": list(SIZE), "counts": _RLE["counts"].decode()},
    {"size": list(SIZE), "counts": [10, 5, 65]},
]
_COCO = {
    "info": {},
    "images": [{"id": i, "file_name": f"{i}.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)],
    "annotations": [
        {"id": i, "image_id": 1 + i % 2, "category_id": 1 + i % 2, "bbox": [1, 1, 5, 5], "area": 25,
         "iscrowd": int(i == 2), "segmentation": shape}
        for i, shape in enumerate(_SHAPES)
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "pet"}, {"id": 2, "name": "dog"}],
}  # fmt: skip


def write_coco(folder: Path, rng: random.Random) -> None:
    (folder / "images").mkdir()
    for i in (1, 2):
        picture(folder / "images" / f"{i}.png")
    content = json.dumps(damaged_tree(_COCO, rng)).encode(rng.choice(("utf-8", "utf-8", "utf-8-sig", "utf-16")))
    (folder / "data.json").write_bytes(damaged_bytes(content, rng) if rng.random() < 0.2 else content)


def read_coco_masks(folder: Path) -> None:
    data = read_coco("drawn", str(folder / "data.json"), str(folder / "images"))
    for record in data.records:
        size = record["height"], record["width"]
        for annotation in record["annotations"]:
            shape = annotation.get("segmentation")
            if isinstance(shape, list):
                coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(shape, *size)))
            elif shape:
                coded = coco_mask.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
                assert coco_mask.decode(coded).shape == size


# Pascal VOC.

_VOC = {
    "folder": "VOC", "filename": "a.png", "path": "C:\\data\\a.png",
    "size": {"width": SIZE[1], "height": SIZE[0], "depth": 3},
    "object": [
        {"name": "cat", "truncated": 0, "difficult": 0, "bndbox": {"xmin": 1, "ymin": 2, "xmax": 6, "ymax": 7}},
        {"name": "dog", "difficult": 1, "bndbox": {"xmin": 3, "ymin": 1, "xmax": 9, "ymax": 8}},
    ],
}  # fmt: skip
_HEADS = (
    "", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="gbk"?>', "\ufeff", "\n",
    '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;">]>',
)  # fmt: skip


def _xml(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "".join(_xml(name, entry) for entry in value)
    inside = "".join(_xml(str(k), v) for k, v in value.items()) if isinstance(value, dict) else str(value)
    return f"<{name}>{inside}</{name}>"


def write_voc(folder: Path, rng: random.Random) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for stem in "ab":
        picture(folder / "JPEGImages" / f"{stem}.png")
        tree = damaged_tree(_VOC, rng) if stem == "a" else _VOC
        text = rng.choice(_HEADS if stem == "a" else ("",)) + _xml("annotation", tree)
        if rng.random() < 0.05:
            text = text.replace("cat", rng.choice(("&x;", "&c;", "<b>", "]]>")))
        content = text.encode(errors="replace")
        damage = stem == "a" and rng.random() < 0.3
        (folder / "Annotations" / f"{stem}.xml").write_bytes(damaged_bytes(content, rng) if damage else content)
    stems = b"a\nb\n"
    (folder / "ImageSets/Main/train.txt").write_bytes(damaged_bytes(stems, rng) if rng.random() < 0.2 else stems)


def read_voc_records(folder: Path) -> None:
    read_voc("drawn", str(folder), "train")


# Label images.

_MODES = ("L", "P", "1", "I;16", "I", "F", "RGB", "RGBA", "LA", "CMYK")
_FORMATS = ("PNG", "PNG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG", "TGA", "EPS", "ICO")


def write_labels(folder: Path, rng: random.Random) -> None:
    for part in ("images", "labels"):
        (folder / part).mkdir()
    size = rng.choice((SIZE, SIZE, SIZE, SIZE[::-1], (1, 1), (500, 3)))
    picture(folder / "images" / "a.png")
    values = np.random.default_rng(rng.getrandbits(32)).integers(0, rng.choice((1, 2, 3, 256)), size, dtype=np.uint8)
    label = Image.fromarray(values)
    mode = rng.choice(_MODES)
    label = Image.fromarray(values.astype(np.uint16)) if mode == "I;16" else label.convert(mode)
    stream = io.BytesIO()
    try:
        label.save(stream, rng.choice(_FORMATS))
    except (OSError, ValueError, KeyError):  # the format has no such mode
        label.convert("L").save(stream, "PNG")
    content = stream.getvalue()
    (folder / "labels" / "a.png").write_bytes(damaged_bytes(content, rng) if rng.random() < 0.4 else content)


def read_labels(folder: Path) -> None:
    entry = {"IMAGES": str(folder / "images"), "LABELS": str(folder / "labels"), "CLASSES": ["no", "yes"]}
    data = load_semantic("drawn", {"drawn": entry})
    for record in data.records:
        assert data.labels.of(record).shape == SIZE


# Checkpoints.

_STATE = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
_RUN = {
    "model": _STATE,
    "adapters": {"x.weight": torch.ones(2)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "scheduler": {"last_epoch": 3},
    "iteration": 2,
    "kd2": {"version": "0.2", "seed": 1, "rng": [{"cpu": torch.get_rng_state(), "cuda": []}],
            "classes": {"things": ["a"]}, "teacher": {"config_file": "", "weights": ""}, "config": "SEED: 1"},
    "trainer": {"hooks": {}},
}  # fmt: skip
_ODD_TENSORS = (
    torch.ones(2, 3, dtype=torch.complex64), torch.ones(2, 3, dtype=torch.int64), torch.full((2, 3), float("nan")),
    torch.ones(3, 2), torch.ones(()), torch.empty(0), torch.ones(2, 2).to_sparse(), torch.empty(2, 3, device="meta"),
    torch.ones(1).expand(10**9), torch.ones(2, 3).half(), torch.zeros(5056, dtype=torch.uint8), torch.ones(2, 3).t(),
)  # fmt: skip


def _as_arrays(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _as_arrays(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_as_arrays(value) for value in tree]
    strange = isinstance(tree, torch.Tensor) and (tree.layout != torch.strided or tree.is_meta or tree.numel() > 10**6)
    return None if strange else tree.numpy() if isinstance(tree, torch.Tensor) else tree


def write_checkpoint(folder: Path, rng: random.Random) -> None:
    base = rng.choice((_RUN, _RUN, {"model": _STATE}, _STATE, {"state_dict": _STATE, "epoch": 3}))
    content = damaged_tree(base, rng, (*ODD, *_ODD_TENSORS)) if rng.random() < 0.8 else base
    stream, form = io.BytesIO(), rng.choice(("new", "new", "old", "pickle"))
    if form == "pickle":
        pickle.dump(_as_arrays(content), stream, rng.randrange(6))
    else:
        torch.save(content, stream, _use_new_zipfile_serialization=form == "new")
    written = stream.getvalue()
    (folder / "a.pth").write_bytes(damaged_bytes(written, rng) if rng.random() < 0.3 else written)


def read_into_a_model(folder: Path) -> None:
    path = str(folder / "a.pth")
    load_state(nn.Linear(3, 2), read_weights(path, "MODEL.WEIGHTS"), path, "MODEL.WEIGHTS", partial=True)
    content = read_checkpoint(path, "--resume")
    class_names(content, "things")
    if "kd2" in content:
        check_run(content, f"--resume: {path}")


KINDS: dict[str, tuple[Write, Read]] = {
    "COCO JSON": (write_coco, read_coco_masks),
    "Pascal VOC": (write_voc, read_voc_records),
    "label images": (write_labels, read_labels),
    "checkpoints": (write_checkpoint, read_into_a_model),
}
