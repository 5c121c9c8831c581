"""Run in an environment where kd2 is installed by ``pip install .``: a config of the package trains from any folder.

python tests/installed.py

Draws a data set in BCCD's layout, then calls ``kd2-train`` in an empty folder for teacher and student, one step each.
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
    """Train teacher and student; 1 when kd2 is not installed or a command fails."""
    command = Path(sys.executable).with_name("kd2-train")
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "data", "bccd"))
        environment = os.environ | {"DETECTRON2_DATASETS": str(Path(folder, "data"))}
        for config in ("teacher", "imitation"):
            words = [str(command), "--config-file", f"kd2://torchvision/bccd/{config}.yaml", *STEPS]
            done = subprocess.run(words, cwd=folder, env=environment)
            if done.returncode:
                print(f"{config}: exit code {done.returncode}")
                return 1
    print("installed: kd2-train has trained both configs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
