"""Draw what distillation sees; ``kd2-look`` is the same command of an installed package.

python tools/look.py --config-file configs/coco/fgd_imitation.yaml --output output/look
"""

import sys

from kd2.cli import guarded
from kd2.cli_report import look_parser, run_look


def main() -> int:
    """Parse the arguments, draw, print the files."""
    return run_look(look_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
