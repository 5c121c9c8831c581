"""The console commands that show what distillation was worth and what it sees."""

import argparse
import itertools
import os
from collections.abc import Sequence

from kd2.cli import guarded
from kd2.cli_arguments import Parser, code_argument, config_arguments, count
from kd2.data.images import ENDINGS
from kd2.engine.permission import permitted
from kd2.losses import import_losses

_COMPARE = """Make one page of several runs: what distillation was worth, in total, by class and by size, at what cost.

%(prog)s output/teacher output/alone output/distilled --output output/page
%(prog)s output/teacher output/alone_* output/distilled_* --output output/page

Runs that differ in the seed alone are taken together. Writes report.md, report.html (everything inside), report.json,
pictures, and the pictures for TensorBoard (tensorboard --logdir output/page).
"""
_LOOK = """Draw what distillation sees: masks, weights and attention of the losses; what each network finds and misses.

%(prog)s --config-file configs/coco/fgd_imitation.yaml --output output/look
%(prog)s --config-file RUN/config.yaml --alone ALONE/model_final.pth --images a.jpg --output look

TensorBoard shows the same pictures: tensorboard --logdir output/look
"""


def compare() -> int:
    """The command ``kd2-compare``."""
    return guarded(lambda: run_compare(compare_parser().parse_args()))


def look() -> int:
    """The command ``kd2-look``."""
    return guarded(lambda: run_look(look_parser().parse_args()))


def compare_parser() -> argparse.ArgumentParser:
    """The arguments of a comparison."""
    parser = Parser(_COMPARE)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="OUTPUT_DIR of a run, finished or not")
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder without an earlier page")
    parser.add_argument("--metric", default="", help="what the page is about, bbox/AP50 say (default: the first score)")
    parser.add_argument("--images", type=count, default=3, metavar="N", help="how many images are shown (default: 3)")
    parser.add_argument("--logs-only", action="store_true", help="build no model: no costs, no pictures of images")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier page")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE", help="as in training"
    )
    code_argument(parser)
    return parser


def look_parser() -> argparse.ArgumentParser:
    """The arguments of a look at a distillation."""
    parser = Parser(_LOOK)
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder without pictures of an earlier look")
    parser.add_argument("--images", nargs="+", default=[], metavar="FILE", help="pictures of the config's data sets")
    parser.add_argument("--count", type=count, default=3, help="without --images: how many are chosen (default: 3)")
    parser.add_argument("--weights", default="", metavar="FILE", help="distilled student (default: that of OUTPUT_DIR)")
    parser.add_argument("--alone", default="", metavar="FILE", help="the student that learned alone, for comparison")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures of an earlier look")
    config_arguments(parser)
    return parser


def run_compare(args: argparse.Namespace) -> int:
    """Write the page and print the verdict."""
    from kd2.report import compare as comparing  # needs TensorBoard, which files for training alone do without

    import_losses(args.imports)
    with permitted(code=args.allow_code):
        content = comparing.compare(
            args.runs, args.output, metric=args.metric, overwrite=args.overwrite, models=not args.logs_only,
            images=args.images,
        )  # fmt: skip
    for line in [*content["verdict"], *content["notes"], f"The page is {args.output}/report.html."]:
        print(line)
    return 0


def pictures_and_pairs(words: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The words behind ``--images``: pictures, known by their endings or as files, and behind them KEY VALUE pairs."""
    pictures = list(itertools.takewhile(lambda x: x.lower().endswith(ENDINGS) or os.path.lexists(x), words))
    return pictures, words[len(pictures) :]


def run_look(args: argparse.Namespace) -> int:
    """Draw and print the files."""
    from kd2.report import look as looking
    from kd2.report.page import check_free, write_pictures  # needs TensorBoard, as above

    images, pairs = pictures_and_pairs(args.images)
    check_free(args.output, args.overwrite)
    import_losses(args.imports)
    with permitted(code=args.allow_code):
        pictures = looking.look(
            args.config_file, [*pairs, *args.opts], images=images, count=args.count, weights=args.weights,
            alone=args.alone, allow_pickle=args.allow_pickle,
        )  # fmt: skip
    for caption, path in write_pictures(args.output, pictures, args.overwrite):
        print(f"{args.output}/{path}: {caption}")
    return 0
