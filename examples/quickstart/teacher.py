"""The teacher that a quick start with drawn shapes comes with, and how it was made.

python -m examples.quickstart.teacher

draws 4,000 images that no quick start has, trains configs/torchvision/quickstart/teacher.yaml on them and writes
examples/quickstart/teacher.pth in half precision.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from examples.quickstart import shapes
from examples.quickstart.training import data_options, experiment
from kd2.cli import Parser, guarded
from kd2.engine import flow
from kd2.engine.weights.checkpoint import read_checkpoint
from kd2.runs.files import copy_atomically, save_atomically, write_atomically
from kd2.runs.folder import FINAL, RESULTS, begin

FILE = str(Path(__file__).with_name("teacher.pth"))
_CONFIG, _SEED = "teacher.yaml", 0
IMAGES = {"teacher": 4000, "val": 300}


def place(output: str, options: list[str], overwrite: bool) -> None:
    """Make ``output`` the folder of a finished run with the teacher of ``FILE``, scored on the validation images."""
    evaluated = experiment(_CONFIG, [*options, "MODEL.WEIGHTS", FILE, "OUTPUT_DIR", output], eval_only=True)
    scores = flow.run(evaluated)
    begin(output, evaluated.config_text(), overwrite)
    copy_atomically(FILE, os.path.join(output, FINAL))
    write_atomically(json.dumps(scores, indent=1), os.path.join(output, RESULTS))


def make(folder: str, file: str = FILE, images: dict[str, int] = IMAGES, iterations: int | None = None) -> None:
    """Draw, train and write ``file``; data and run are left in ``folder``.

    Args:
        images: how many to draw for ``teacher`` and ``val``.
        iterations: None is what the config says.
    """
    drawn = shapes.write(os.path.join(folder, "data"), images, _SEED)
    run = os.path.join(os.path.abspath(folder), "run")
    options = data_options({"train": drawn["teacher"], "val": drawn["val"]}, len(shapes.CLASSES), _SEED)
    options += ["OUTPUT_DIR", run] + (["SOLVER.MAX_ITER", str(iterations)] if iterations else [])
    flow.run(experiment(_CONFIG, options, overwrite=True))
    save_atomically(halved(read_checkpoint(run, "OUTPUT_DIR")), file)


def halved(content: dict[str, Any]) -> dict[str, Any]:
    """What a teacher needs of a checkpoint: weights, in half precision, and classes; with them version and seed."""
    half = {k: v.half() if v.is_floating_point() else v for k, v in content["model"].items()}
    return {"model": half, "kd2": {k: content["kd2"][k] for k in ("version", "seed", "classes")}}


def main() -> int:
    """Parse the arguments, make the file, say its size."""
    parser = Parser(__doc__)
    parser.add_argument("--output", default="output/quickstart_teacher", metavar="DIR", help="for data and run")
    torch.set_num_threads(max((os.cpu_count() or 2) // 2, 1))
    make(parser.parse_args().output)
    print(f"{FILE}: {os.path.getsize(FILE) / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
