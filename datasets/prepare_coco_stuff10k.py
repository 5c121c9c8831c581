"""COCO-Stuff 10k (Caesar et al., 2018) to the layout of the full COCO-Stuff, which kd2 reads.

python datasets/prepare_coco_stuff10k.py --source cocostuff-10k-v1.1 --output datasets/coco_stuff10k

Writes {train,test}/*.jpg and stuffthingmaps/{train,test}/*.png for the lists in SOURCE/imageLists. Needs scipy.
"""

import os
import shutil
import sys

import numpy as np
from new_folder import new_folder
from PIL import Image
from scipy.io import loadmat

from kd2.cli import guarded
from kd2.cli_arguments import Parser
from kd2.data.root import inside, text_lines
from kd2.distill import IGNORE_LABEL, DataError


def label_of(path: str) -> Image.Image:
    """The label of an annotation file: ids 1..182 less one, unlabeled (0) as 255."""
    try:
        ids = loadmat(path)["S"].astype(np.int64)
    except FileNotFoundError:
        raise DataError(f"{path}: no such annotation file") from None
    except (ValueError, KeyError, NotImplementedError) as error:
        raise DataError(f"{path}: not an annotation of COCO-Stuff 10k: {error}") from error
    if ids.min() < 0 or ids.max() > 182:
        raise DataError(f"{path}: holds ids from {ids.min()} to {ids.max()}, expected 0 to 182")
    return Image.fromarray(np.where(ids == 0, IGNORE_LABEL, ids - 1).astype(np.uint8))


def main() -> int:
    """Copy the pictures and convert their labels."""
    parser = Parser(__doc__)
    parser.add_argument("--source", required=True, metavar="FOLDER", help="with images, annotations and imageLists")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a folder that does not exist yet")
    args = parser.parse_args()
    counts = []
    with new_folder(args.output) as folder:
        for split in ("train", "test"):
            stems = text_lines(os.path.join(args.source, "imageLists", f"{split}.txt"))
            images, labels = os.path.join(folder, split), os.path.join(folder, "stuffthingmaps", split)
            os.makedirs(images)
            os.makedirs(labels)
            for stem in stems:
                shutil.copy(inside(args.source, f"images/{stem}.jpg", "imageLists"), images)
                label = label_of(inside(args.source, f"annotations/{stem}.mat", "imageLists"))
                label.save(inside(labels, f"{stem}.png", "imageLists"))
            counts.append(f"{len(stems)} {split}")
    print(f"{args.output}: {', '.join(counts)} images")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
