"""A tiny classification data set and tiny configs."""

import io
from pathlib import Path

import numpy as np
import yaml
from fvcore.common.config import CfgNode
from PIL import Image

from kd2.config import defaults_of, merge

from .lightning_runs import merged

CLASSES = ("bar", "box", "dot")
COUNT = 14  # no multiple of the batch size

CONFIG = {
    "FRAMEWORK": "timm",
    "SEED": 7,
    "MODEL": {"NAME": "test_resnet", "NUM_CLASSES": 3, "DEVICE": "cpu"},
    "INPUT": {"SIZE": 32, "TEST_SCALE": 1.0},
    "DATASETS": {"TRAIN": ["tiny"], "TEST": []},
    "DATALOADER": {"NUM_WORKERS": 0},
    "SOLVER": {
        "IMS_PER_BATCH": 4,
        "BASE_LR": 0.01,
        "MAX_ITER": 6,
        "WARMUP_ITERS": 2,
        "CHECKPOINT_PERIOD": 3,
        "NESTEROV": True,
        "LR_SCHEDULER_NAME": "WarmupCosineLR",
        "WARMUP_FACTOR": 0.0,
        "RESCALE_INTERVAL": True,
    },
}


def picture(number: int) -> Image.Image:
    """Noise with a bright patch whose place tells the class, 40 x 36."""
    pixels = np.random.RandomState(number).randint(0, 90, (36, 40, 3), dtype=np.uint8)
    place = 4 + 10 * (number % 3)
    pixels[8:24, place : place + 8, number % 3] = 230
    return Image.fromarray(pixels)


def encoded(number: int) -> bytes:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def archive(files: list[bytes], labels: list[int], names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of an npz data set."""
    return {
        "image": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.array(labels, np.uint8),
        "name": np.array(names, np.bytes_),
    }


def write_data(folder: Path) -> None:
    """``train.npz``, ``test.npz`` and the folder ``train`` with the same images as files."""
    folder.mkdir(parents=True)
    for split, start, count in (("train", 0, COUNT), ("test", 100, 9)):
        numbers = range(start, start + count)
        files, labels = [encoded(n) for n in numbers], [n % 3 for n in numbers]
        names = [f"{CLASSES[label]}/{n:04}.png" for n, label in zip(numbers, labels)]
        np.savez(folder / f"{split}.npz", **archive(files, labels, names))
        for name, content in zip(names, files):
            path = folder / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def write_config(folder: Path, data: Path, changes: dict | None = None, name: str = "student") -> str:
    """The config with ``changes`` over the pictures of folder ``data``; returns its path."""
    custom = {"tiny": {"NPZ": str(data / "train.npz")}, "tiny_test": {"NPZ": str(data / "test.npz")}}
    content = merged({"OUTPUT_DIR": str(folder / "out"), "DATASETS": {"CUSTOM": custom}}, CONFIG)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(merged(content, changes or {})))
    return str(path)


def distilled(teacher: Path, changes: dict | None = None, mode: str = "same/ic") -> dict:
    """Changes that distil the logits of the teacher trained in folder ``teacher``."""
    own = {"CONFIG_FILE": str(teacher / "teacher.yaml"), "WEIGHTS": str(teacher / "out" / "model_final.pth")}
    kd = {"TEACHER": own, "LOSSES": {"logits": {"TAP": "logits"}}, "VIEWS": {"MODE": mode, "ENSEMBLE": 3}}
    return merged({"KD": kd}, changes or {})


def config(changes: dict | None = None) -> CfgNode:
    """The config with ``changes``, without a file."""
    return merge(defaults_of("timm"), merged(CONFIG, changes or {}))
