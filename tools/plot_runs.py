"""Draw one metric of several trainings over time, and print its last and its highest value.

python tools/plot_runs.py --metric cls/top1 --axis epoch --output views.png output/timm/cifar10/views_*

Reads the CSV logs of the output folders, of running trainings too.
"""

import sys

from kd2.cli import guarded, table
from kd2.cli_arguments import Parser
from kd2.report.curves import draw_curves


def main() -> int:
    """Parse the arguments, draw, print the table."""
    parser = Parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="OUTPUT_DIR of a run")
    parser.add_argument("--metric", default="cls/top1", help="a column of the logs (default: cls/top1)")
    parser.add_argument("--axis", default="epoch", help="epoch or step; only classification logs count epochs")
    parser.add_argument("--output", default="output/runs.png", metavar="FILE", help="image to write")
    args = parser.parse_args()
    rows = draw_curves(args.folders, args.metric, args.axis, args.output)
    print(table(["run", f"last {args.metric}", "highest"], rows))
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
