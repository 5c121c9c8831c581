"""Reading a JSON of COCO train2017's size: checked records of kd2 beside Detectron2's ``load_coco_json``.

Every way runs in a process of its own: ``python -m benchmarks.reading WAY FOLDER`` prints its seconds and peak memory.
"""

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

# Images and objects of COCO train2017, and the share of its objects that are crowd with run-length codes.
IMAGES, OBJECTS, CROWD = 118_287, 860_001, 0.012
WIDTH, HEIGHT, CLASSES = 640, 480, 80
_TEMPLATES = 2000
# Names that lead to one file: file systems have a limit.
_LINKS = 10_000

Row = dict[str, str | float]


def draw(folder: Path, images: int = IMAGES, objects: int = OBJECTS) -> None:
    """Write ``coco.json`` as COCO has it, and ``images`` as links to a few pictures, into ``folder``.

    An object has one polygon or more, of 24 points on average: about 450 MB for the default numbers.
    """
    draws = np.random.default_rng(0)
    pictures = folder / "images"
    pictures.mkdir(parents=True)
    blank = Image.new("RGB", (WIDTH, HEIGHT))
    for number in range(images):
        path = pictures / _name(number)
        if number % _LINKS == 0:
            blank.save(path)
        else:
            os.link(pictures / _name(number - number % _LINKS), path)
    templates = [_object(draws) for _ in range(_TEMPLATES)]
    places = draws.integers(0, images, objects).tolist()
    categories = draws.integers(1, CLASSES + 1, objects).tolist()
    chosen = draws.integers(0, _TEMPLATES, objects).tolist()
    with open(folder / "coco.json", "w", encoding="utf-8") as file:
        file.write('{"info": {}, "licenses": [], "images": [')
        url = "http://images.cocodataset.org/train2017/"
        for i in range(images):
            file.write(
                f'{", " * bool(i)}{{"license": 3, "file_name": "{_name(i)}", "coco_url": "{url}{_name(i)}", "height": '
                f'{HEIGHT}, "width": {WIDTH}, "date_captured": "2013-11-14 11:18:45", "id": {i}}}'
            )
        file.write('], "annotations": [')
        for i, (place, category, template) in enumerate(zip(places, categories, chosen, strict=True)):
            file.write(
                f'{", " * bool(i)}{{{templates[template]}, "image_id": {place}, "category_id": {category}, '
                f'"id": {i + 1}}}'
            )
        names = ", ".join(
            f'{{"supercategory": "thing", "id": {i}, "name": "class {i}"}}' for i in range(1, CLASSES + 1)
        )
        file.write(f'], "categories": [{names}]}}')


def read_rows(folder: Path) -> list[Row]:
    """A row a way: seconds, those of the CPU, peak memory of its process in MiB; the last two also as multiples of
    Detectron2's where that is installed."""
    rows: list[Row] = []
    for way in WAYS if importlib.util.find_spec("detectron2") else list(WAYS)[1:]:
        command = [sys.executable, "-m", "benchmarks.reading", way, str(folder)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        row = {"": way} | json.loads(done.stdout.splitlines()[-1])
        first = rows[0] if rows else row
        rows.append(
            row | {"times": row["CPU seconds"] / first["CPU seconds"], "of the memory": row["MiB"] / first["MiB"]}
        )
    return rows


def _name(number: int) -> str:
    return f"{number:012d}.jpg"


def _object(draws: np.random.Generator) -> str:
    """The text of the entries of an object that do not depend on its image."""
    width, height = draws.uniform(8, [WIDTH / 2, HEIGHT / 2])
    x, y = draws.uniform(0, [WIDTH - width, HEIGHT - height])
    box = [round(v, 2) for v in (x, y, width, height)]
    if draws.random() < CROWD:
        counts = draws.integers(1, 100, 501).tolist()
        counts.append(WIDTH * HEIGHT - sum(counts))
        mask: object = {"counts": counts, "size": [HEIGHT, WIDTH]}
    else:
        mask = [_ring(draws, x, y, width, height) for _ in range(1 + draws.geometric(0.9) // 2)]
    crowd = int(isinstance(mask, dict))
    entries = {"segmentation": mask, "area": round(0.6 * width * height, 4), "iscrowd": crowd, "bbox": box}
    return json.dumps(entries)[1:-1]


def _ring(draws: np.random.Generator, x: float, y: float, width: float, height: float) -> list[float]:
    points = max(3, int(draws.lognormal(2.95, 0.65)))
    return draws.uniform([x, y], [x + width, y + height], (points, 2)).round(2).reshape(-1).tolist()


def _kd2(headers: bool) -> Callable[[Path], int]:
    from kd2.data.detection.coco import read_coco

    return lambda folder: len(
        read_coco("drawn", str(folder / "coco.json"), str(folder / "images"), headers=headers).records
    )


def _detectron2() -> Callable[[Path], int]:
    from detectron2.data.datasets.coco import load_coco_json

    return lambda folder: len(load_coco_json(str(folder / "coco.json"), str(folder / "images"), "drawn"))


WAYS: dict[str, Callable[[], Callable[[Path], int]]] = {
    "Detectron2's load_coco_json": _detectron2,
    "kd2 without headers": lambda: _kd2(headers=False),
    "kd2 with headers": lambda: _kd2(headers=True),
}


def main(way: str, folder: str) -> None:
    """Read a drawn data set in one way and print what it took; imports do not count."""
    read = WAYS[way]()
    start, start_cpu = time.perf_counter(), time.process_time()
    read(Path(folder))
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    print(
        json.dumps(
            {"seconds": seconds, "CPU seconds": cpu, "MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
