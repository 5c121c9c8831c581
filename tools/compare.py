"""Make one page of several runs; ``kd2-compare`` is the same command of an installed package.

python tools/compare.py output/teacher output/alone output/distilled --output output/page
"""

import sys

from kd2.cli import guarded
from kd2.cli_report import compare_parser, run_compare


def main() -> int:
    """Parse the arguments, compare, print the verdict."""
    return run_compare(compare_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
