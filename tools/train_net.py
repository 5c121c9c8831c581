"""Train or evaluate a student by a config file; ``kd2-train`` is the same command of an installed package.

python tools/train_net.py --config-file configs/coco/fgd_imitation.yaml --num-gpus 8
"""

import sys

from kd2.cli import guarded, run_train, train_parser


def main() -> int:
    """Parse the arguments and train."""
    return run_train(train_parser().parse_args())


if __name__ == "__main__":
    sys.exit(guarded(main))
