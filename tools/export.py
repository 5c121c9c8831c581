"""Write the student of a run as one file for a device; ``kd2-export`` is the same command of an installed package.

python tools/export.py --run output/bccd/imitation --format onnx --evaluate
"""

import sys

from kd2.cli import guarded
from kd2.cli_deploy import export_parser, run_export


def main() -> int:
    """Parse the arguments and export."""
    return run_export(export_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
