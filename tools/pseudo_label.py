"""Write what a detector finds as a data set; ``kd2-pseudo-label`` is the same command of an installed package.

python tools/pseudo_label.py --config-file my_teacher.yaml --images more --to more.json MODEL.WEIGHTS my_teacher.pth
"""

import sys

from kd2.cli import guarded
from kd2.cli_deploy import pseudo_label_parser, run_pseudo_label


def main() -> int:
    """Parse the arguments, find, write."""
    return run_pseudo_label(pseudo_label_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
