"""Read the data sets of a config and count what they hold; ``kd2-check-data`` is the same of an installed package.

python tools/check_data.py --config-file configs/bccd/imitation.yaml --pictures output/look
"""

import sys

from kd2.cli import check_data_parser, guarded, run_check_data


def main() -> int:
    """Parse the arguments and print the tables."""
    return run_check_data(check_data_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
