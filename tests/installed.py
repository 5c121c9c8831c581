"""Run in an environment where kd2 is installed by ``pip install .``: the commands work in any folder.

python tests/installed.py

Draws a data set in BCCD's layout, then goes from data to device in an empty folder: ``kd2-check-data``, ``kd2-train``
for teacher, student alone and distilled student, one step each, ``kd2-compare``, ``kd2-export`` and ``kd2-predict``.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, IMAGES = 160, 120, 4
STEPS = ["SOLVER.MAX_ITER", "1", "SOLVER.CHECKPOINT_PERIOD", "1", "DATALOADER.NUM_WORKERS", "0"]


def draw(folder: Path) -> None:
    """Noise with one bright rectangle an image, in COCO's format, for training and evaluation."""
    (folder / "images").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        pixels = generator.integers(0, 64, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels[30:90, 40:120] = 200
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    images = [{"id": i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(IMAGES)]
    boxes = [
        {"id": i + 1, "image_id": i, "category_id": i % 3 + 1, "bbox": [40, 30, 80, 60], "area": 4800, "iscrowd": 0}
        for i in range(IMAGES)
    ]
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(("RBC", "WBC", "Platelets"))]
    for split in ("train", "val"):
        content = {"images": images, "annotations": boxes, "categories": categories}
        (folder / f"instances_{split}.json").write_text(json.dumps(content))


def main() -> int:
    """The road from data to device; 1 when kd2 is not installed or a command fails."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "data", "bccd"))
        environment = os.environ | {"DETECTRON2_DATASETS": str(Path(folder, "data"))}
        for words in commands():
            program = Path(sys.executable).with_name(words[0])
            done = subprocess.run([str(program), *words[1:]], cwd=folder, env=environment)
            if done.returncode:
                print(f"{' '.join(words)}: exit code {done.returncode}")
                return 1
    print("installed: every command from data to device has worked")
    return 0


def commands() -> list[list[str]]:
    """The commands, with their arguments."""
    names = ("teacher", "student", "imitation")
    runs = [f"output/torchvision/bccd/{name}" for name in names]
    configs = [f"kd2://torchvision/bccd/{name}.yaml" for name in names]
    return [
        ["kd2-check-data", "--config-file", configs[-1]],
        *(["kd2-train", "--config-file", config, *STEPS] for config in configs),
        ["kd2-compare", *runs, "--output", "output/page"],
        ["kd2-export", "--run", runs[-1], "--format", "torchscript"],
        ["kd2-predict", "--run", f"{runs[-1]}/student.pt", "data/bccd/images", "--output", "output/found"],
    ]


if __name__ == "__main__":
    sys.exit(main())
