"""Draw what a student finds on pictures; ``kd2-predict`` is the same command of an installed package.

python tools/predict.py --run output/bccd/imitation photos/
"""

import sys

from kd2.cli import guarded
from kd2.cli_deploy import predict_parser, run_predict


def main() -> int:
    """Parse the arguments and predict."""
    return run_predict(predict_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
