"""Fetch published weights for machines without a network; ``kd2-fetch-weights`` is the same of an installed package.

python tools/fetch_weights.py COCO-Detection/retinanet_R_101_FPN_3x.yaml --to weights
"""

import sys

from kd2.cli import fetch_parser, guarded, run_fetch


def main() -> int:
    """Parse the arguments and print a table of the files."""
    return run_fetch(fetch_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
