"""The console commands up to training, and what all share with the scripts of tools/: error texts and tables."""

import argparse
import io
import logging
import shlex
import sys
from collections.abc import Callable, Iterable

from kd2 import engine
from kd2.cli_arguments import Parser, config_arguments
from kd2.data.survey import Survey, survey
from kd2.distill import USER_ERRORS, ConfigError
from kd2.engine import preflight as checks
from kd2.engine.rendezvous import leads
from kd2.engine.weights.fetch import fetch
from kd2.losses import import_losses
from kd2.report.data_pictures import draw_sheet, sheet_path
from kd2.runs import endings

_TRAIN = """Train or evaluate a student by a config file.

%(prog)s --config-file configs/coco/fgd_imitation.yaml --num-gpus 8
%(prog)s --config-file FILE --eval-only MODEL.WEIGHTS output/model_final.pth
"""
_PREFLIGHT = """Look at a distillation before it runs: both models, one batch, a table.

%(prog)s --config-file configs/coco/fgd_imitation.yaml

The exit code is 1, with the reason, when training would not start or a loss would do nothing.
"""
_CHECK = """Read all that the data sets of a config hold, and print a table of each: images, objects by class, sizes,
what was repaired, left out and refused.

%(prog)s --config-file configs/bccd/imitation.yaml --pictures output/look

The exit code is 1 when a data set cannot be used; the others are read nevertheless.
"""

_FETCH = """Fetch published weights into a folder. A run takes them from there by the same names when $KD2_WEIGHTS names
the folder; without a network, copy it.

%(prog)s COCO-Detection/retinanet_R_101_FPN_3x.yaml torchvision://maskrcnn_resnet50_fpn_v2 timm://resnet50.a1_in1k \\
    detectron2://ImageNetPretrained/MSRA/R-50.pkl --to weights
"""


def train() -> int:
    """The command ``kd2-train``."""
    return guarded(lambda: run_train(train_parser().parse_args()))


def preflight() -> int:
    """The command ``kd2-preflight``."""
    return guarded(lambda: run_preflight(preflight_parser().parse_args()))


def check_data() -> int:
    """The command ``kd2-check-data``."""
    return guarded(lambda: run_check_data(check_data_parser().parse_args()))


def fetch_weights() -> int:
    """The command ``kd2-fetch-weights``."""
    return guarded(lambda: run_fetch(fetch_parser().parse_args()))


def train_parser() -> argparse.ArgumentParser:
    """The arguments of training: those of Detectron2's ``train_net.py``, and ``--import``."""
    parser = Parser(_TRAIN)
    parser.add_argument("--num-gpus", type=int, default=1, help="GPUs a machine; without any the CPU is used")
    parser.add_argument("--num-machines", type=int, default=1)
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument("--dist-url", default="auto", help="tcp://HOST:PORT of the first machine")
    former = parser.add_mutually_exclusive_group()
    former.add_argument("--resume", action="store_true", help="go on from the last checkpoint of OUTPUT_DIR")
    former.add_argument("--overwrite", action="store_true", help="remove a former run from OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate MODEL.WEIGHTS; no teacher is built")
    config_arguments(parser)
    return parser


def preflight_parser() -> argparse.ArgumentParser:
    """The arguments of a dry run."""
    parser = Parser(_PREFLIGHT)
    config_arguments(parser)
    return parser


def check_data_parser() -> argparse.ArgumentParser:
    """The arguments of a look at the data."""
    parser = Parser(_CHECK)
    parser.add_argument("--pictures", metavar="DIR", help="draw twelve pictures of each data set with its annotations")
    config_arguments(parser)
    return parser


def fetch_parser() -> argparse.ArgumentParser:
    """The arguments of fetching weights."""
    parser = Parser(_FETCH)
    parser.add_argument("names", nargs="+", metavar="NAME", help="a name of a model zoo, or an address")
    parser.add_argument("--to", required=True, metavar="DIR", help="the folder; files that are there stay")
    return parser


def run_train(args: argparse.Namespace) -> int:
    """Train, or evaluate with ``args.eval_only``, and print the scores; the exit code."""
    if args.num_gpus < 0:
        raise ConfigError(f"--num-gpus is {args.num_gpus}, expected 0 (the CPU) or more")
    import_losses(args.imports)
    try:
        results = engine.run(args.config_file, args.opts, args)
    except endings.Interrupted as end:
        raise endings.Interrupted(end.signum, end.saved, _resuming(sys.argv)) from None
    if results and leads():
        print(table(["metric", "value"], results.items()))
    return 0


def run_preflight(args: argparse.Namespace) -> int:
    """Print what would be distilled; the exit code is 1 when a loss would do nothing."""
    import_losses(args.imports)
    if not _print_data(args):
        return 1
    with engine.dry_run(args.config_file, args.opts, args.allow_pickle, args.allow_code) as dry_run:
        print(table(checks.TAP_HEADER, checks.tap_rows(dry_run.distiller)), end="\n\n")
        print(table(["", "student", "teacher"], [[name, *sides] for name, sides in dry_run.facts.items()]), end="\n\n")
        rows = checks.loss_rows(dry_run)
        print(table(checks.LOSS_HEADER, rows), end="\n\n")
        shares = checks.share_rows(dry_run)
        if shares:
            print(table(checks.SHARE_HEADER, shares), end="\n\n")
        print(f"teacher's share of a step: {100 * checks.teacher_share(dry_run):.0f} %")
    reasons = checks.problems(rows)
    for reason in reasons:
        print(f"error: {reason}", file=sys.stderr)
    return 1 if reasons else 0


def run_check_data(args: argparse.Namespace) -> int:
    """Print a table a data set; the exit code is 1 when one cannot be used."""
    import_losses(args.imports)
    return 0 if _print_data(args, args.pictures) else 1


def run_fetch(args: argparse.Namespace) -> int:
    """Fetch weights and print where each lies, with its address, SHA-256, size in bytes and license."""
    rows = [[x.name, x.size, x.sha256, x.license, x.address, x.path] for x in fetch(args.names, args.to)]
    print(table(["name", "bytes", "sha256", "license", "address", "file"], rows))
    return 0


def _print_data(args: argparse.Namespace, pictures: str | None = None) -> bool:
    """Whether all data sets can be used; ``pictures`` is a folder for drawings."""
    sets = engine.data_sets(args.config_file, args.opts, args.allow_code)
    paths = {name: sheet_path(name, pictures) for name in sets} if pictures else {}
    refused = []
    for name, load in sets.items():
        try:
            data = load()
            found = survey(data)
        except USER_ERRORS as error:
            found = Survey([("refused", 1, "as a whole, see its line below")], [str(error)])
        print(table([name, "count", ""], found.rows), end="\n\n", flush=True)
        refused += found.refused
        if name in paths and not found.refused:
            draw_sheet(data, paths[name])
    for text in refused:
        print(f"error: {text}", file=sys.stderr)
    return not refused


def guarded(main: Callable[[], int]) -> int:
    """Run a script and return its exit code; whatever goes wrong is one line on stderr.

    0: done. 1: an error of the user's, or a fault, whose traceback is in the file that the line names. 128 + n: the
    signal n (SIGINT, SIGTERM) ended it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text, or not in its encoding
    logger, handler = logging.getLogger("kd2"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with endings.signals_raise(), endings.reported():
            return main()
    except endings.TOLD as error:
        print(f"error: {_told(error)}", file=sys.stderr)
        return 1
    except endings.Interrupted as end:
        print(end.text(), file=sys.stderr)
        return int(end.code)
    finally:
        logger.removeHandler(handler)


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; numbers with a fraction get four significant digits."""
    cells = [list(header)] + [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(x.ljust(w) for x, w in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _resuming(words: list[str]) -> str:
    """The command that goes on with the run of this command."""
    program = [sys.executable, words[0]] if words[0].endswith(".py") else words[:1]
    return shlex.join([*program, "--resume", *(word for word in words[1:] if word not in ("--resume", "--overwrite"))])


def _told(error: BaseException) -> str:
    """The text of an error; of one from a data loader's worker, which comes with its traceback, only the end."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return str(error).rpartition(f"\n{name}: ")[2].strip()
