"""Look at a distillation before it runs: both models, one batch, a table; exit 1 with the reason when it would not work.

python tools/preflight.py --config-file configs/coco/fgd_imitation.yaml
"""

import argparse
import sys

from kd2.engine import preflight
from kd2.engine import bridge
from kd2.cli import config_arguments, guarded, table
from kd2.config import framework_of, read


def main() -> int:
    """Print the tables; 1 when a loss would do nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    config_arguments(parser)
    args = parser.parse_args()
    framework = framework_of(read(args.config_file, args.opts), args.config_file)
    with bridge(framework, "trial").trial(args.config_file, args.opts) as trial:
        print(table(preflight.TAP_HEADER, preflight.tap_rows(trial.distiller)), end="\n\n")
        print(table(["", "student", "teacher"], [[name, *sides] for name, sides in trial.facts.items()]), end="\n\n")
        rows = preflight.loss_rows(trial)
        print(table(preflight.LOSS_HEADER, rows), end="\n\n")
        print(f"teacher's share of a step: {100 * preflight.teacher_share(trial):.0f} %")
    reasons = preflight.problems(rows)
    for reason in reasons:
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(guarded(main))
