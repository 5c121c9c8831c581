"""Train or evaluate a student by a config file.

python tools/train_net.py --config-file configs/coco/fgd_imitation.yaml --num-gpus 8
python tools/train_net.py --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
"""

import argparse
import sys

from kd2 import engine
from kd2.cli import config_arguments, guarded, table


def main() -> int:
    """Parse the arguments and hand over to the framework of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs a machine; without any the CPU is used")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of the first machine")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; no teacher is built")
    config_arguments(parser)
    args = parser.parse_args()
    results = engine.run(args.config_file, args.opts, args)
    if results:
        print(table(["metric", "value"], results.items()))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
