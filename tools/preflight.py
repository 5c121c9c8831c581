"""Look at a distillation before it runs; ``kd2-preflight`` is the same command of an installed package.

python tools/preflight.py --config-file configs/coco/fgd_imitation.yaml
"""

import sys

from kd2.cli import guarded, preflight_parser, run_preflight


def main() -> int:
    """Parse the arguments and print the tables."""
    return run_preflight(preflight_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
