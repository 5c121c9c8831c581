"""A COCO data set of which only a part of the images has labels: which part, drawn with a seed.

python datasets/split_coco.py datasets/bccd/instances_train.json --part 0.2 --output datasets/bccd/part20

labeled.json and rest.json of the new folder are instances files of the drawn images and of the others, with all
categories and with every annotation of their images. As a set of KD.UNLABELED the rest loses its labels.
"""

import json
import os
import random
import sys

from new_folder import new_folder

from kd2.cli import guarded
from kd2.cli_arguments import Parser
from kd2.data.detection.coco import read_json
from kd2.distill import ConfigError, DataError


def main() -> int:
    """Write both files."""
    parser = Parser(__doc__)
    parser.add_argument("json", metavar="JSON", help="a COCO instances file")
    parser.add_argument("--part", type=float, required=True, metavar="P", help="of the images, above 0 and below 1")
    parser.add_argument("--seed", type=int, default=0, help="draws them (default 0)")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a folder that does not exist yet")
    args = parser.parse_args()
    if not 0 < args.part < 1:
        raise ConfigError(f"--part is {args.part:g}, expected a number above 0 and below 1")
    content = read_json(args.json)
    ids = sorted((image.get("id") for image in content["images"]), key=str)
    if None in ids or len(set(ids)) < len(ids):
        raise DataError(f"{args.json}: images without an id of their own cannot be told apart")
    drawn = set(random.Random(args.seed).sample(ids, max(1, round(args.part * len(ids)))))
    with new_folder(args.output) as folder:
        for name, chosen in {"labeled": drawn, "rest": set(ids) - drawn}.items():
            part = content | {
                "images": [image for image in content["images"] if image["id"] in chosen],
                "annotations": [x for x in content["annotations"] if x.get("image_id") in chosen],
            }
            with open(os.path.join(folder, f"{name}.json"), "w", encoding="utf-8") as file:
                json.dump(part, file)
    print(f"{args.output}: {len(drawn)} images with labels, {len(ids) - len(drawn)} others")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
