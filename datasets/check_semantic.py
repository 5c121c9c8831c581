"""Read every label of the segmentation data sets of a config: how many images, which classes, how often.

python datasets/check_semantic.py --config-file FILE [KEY VALUE ...]
"""

import sys

import numpy as np
from fvcore.common.config import CfgNode

from kd2.cli import Parser, config_arguments, guarded, table
from kd2.config import merge, read
from kd2.data.segmentation.semantic import SemanticRecords, load_semantic
from kd2.distill import IGNORE_LABEL, ConfigError


def class_rows(data: SemanticRecords) -> list[list[object]]:
    """A row a class: name, images that show it, share of the labeled pixels; a last one for ignored pixels."""
    pixels, images = np.zeros(IGNORE_LABEL + 1), np.zeros(IGNORE_LABEL + 1, dtype=int)
    for record in data.records:
        counts = np.bincount(data.labels.of(record).reshape(-1), minlength=IGNORE_LABEL + 1)
        pixels += counts
        images += counts > 0
    labeled = max(pixels[:IGNORE_LABEL].sum(), 1)
    rows = [[name, images[i], 100 * pixels[i] / labeled] for i, name in enumerate(data.classes)]
    return [*rows, ["ignored, of all pixels", images[IGNORE_LABEL], 100 * pixels[IGNORE_LABEL] / pixels.sum()]]


def main() -> int:
    """Print a table a data set; a label that cannot be used ends it."""
    parser = Parser(__doc__)
    config_arguments(parser)
    args = parser.parse_args()
    cfg = merge(CfgNode(new_allowed=True), read(args.config_file, args.opts))
    sets = cfg.get("DATASETS", {})
    names = [*sets.get("TRAIN", ()), *sets.get("TEST", ()), *cfg.get("KD", {}).get("UNLABELED", {}).get("DATASETS", ())]
    if not names:
        raise ConfigError(f"{args.config_file} has no DATASETS.TRAIN, DATASETS.TEST or KD.UNLABELED.DATASETS")
    for name in dict.fromkeys(names):
        data = load_semantic(name, sets.get("CUSTOM", {}))
        print(f"\n{name}: {len(data.records)} images in {data.source}, {len(data.classes)} classes\n")
        print(table(["class", "images", "% of pixels"], class_rows(data)))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
