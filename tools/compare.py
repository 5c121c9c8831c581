"""Make one page of several runs: what distillation was worth, in total, by class and by size, at what cost.

python tools/compare.py output/teacher output/alone output/distilled --output output/page
python tools/compare.py output/teacher output/alone_* output/distilled_* --output output/page

Runs that differ in the seed alone are taken together. Writes report.md, report.html (everything inside), report.json,
pictures, and the pictures for TensorBoard (tensorboard --logdir output/page).
"""

import sys

from kd2.cli import Parser, code_argument, guarded
from kd2.engine.permission import permitted
from kd2.losses import import_losses
from kd2.report.compare import compare


def main() -> int:
    """Parse the arguments, compare, print the verdict."""
    parser = Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run, finished or not")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder without an earlier page")
    parser.add_argument("--metric", default="", help="what the page is about, bbox/AP50 say (default: the first score)")
    parser.add_argument("--images", type=int, default=3, metavar="N", help="how many images are shown (default: 3)")
    parser.add_argument("--logs-only", action="store_true", help="build no model: no costs, no pictures of images")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier page")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="see train_net.py"
    )
    code_argument(parser)
    args = parser.parse_args()
    import_losses(args.imports)
    with permitted(code=args.allow_code):
        content = compare(
            args.runs, args.output, metric=args.metric, overwrite=args.overwrite, models=not args.logs_only,
            images=args.images,
        )  # fmt: skip
    for line in [*content["verdict"], *content["notes"], f"The page is {args.output}/report.html."]:
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
