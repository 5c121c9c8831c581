"""Benchmarks.

    python tools/benchmark.py losses [--only NAME] [--threads one|all|both] [--device cuda] [--json FILE]
    python tools/benchmark.py step [--rounds N] [--json FILE] --config-file FILE [KEY VALUE ...]
    python tools/benchmark.py scaling --config-file FILE [KEY VALUE ...]
    python tools/benchmark.py read [--folder FOLDER]
    python tools/benchmark.py deploy [--format FORMAT] [--train | RUN ...]

``losses`` prints a row for each case and number of threads: our median time and the plain formula's, how many times
faster ours is, the extra memory of either at its peak and what autograd keeps of it for the backward pass, and the
largest error between their values and gradients relative to the largest element. ``--compile`` adds time and peak
memory of the formula under torch.compile. Exit status 1 when an error is beyond the case's tolerance.

``step`` prints the median milliseconds of the teacher up to its last tap, the student alone, the losses alone and the
whole distilled step (forward and backward), the overhead: whole / (teacher + student + losses), and the ratio: whole /
student.

``scaling`` counts what a step costs each GPU and sends the others, with and without adapters: bytes of gradient that
are all-reduced, bytes of weights, operations, and bytes kept for the backward pass.

``read`` draws an annotation file of COCO train2017's size (about 450 MB, into a new FOLDER or a temporary one) and
prints seconds and peak memory of reading it into checked records, with and without the headers of the pictures, beside
Detectron2's own reader where that is installed.

``deploy`` writes the students of runs, without any a student of every architecture with drawn weights, in every format
and prints the largest differences from PyTorch on 20 images of the first test set, scores and milliseconds on all.
``--train`` takes those of benchmarks/students, which it trains briefly below output/deploy. It goes on where
it was stopped: what lies there is not trained or measured again. The table of either in all formats, without RUN or
--format, goes into docs/deploy.md, too.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ lies in the checkout alone

from benchmarks import deploy as deploying
from benchmarks import loss_cases, rows
from benchmarks.reading import IMAGES, OBJECTS, draw, read_rows
from benchmarks.scaling import HEADER, scaling_rows
from benchmarks.step import step_times
from benchmarks.trained import trained_rows
from kd2 import engine
from kd2.cli import guarded, table
from kd2.cli_arguments import Parser, config_arguments
from kd2.engine.permission import permitted
from kd2.losses import import_losses

_COLUMNS = (
    "name", "threads", "ours_ms", "formula_ms", "ratio", "ours_mib", "formula_mib",
    "ours_saved_mib", "formula_saved_mib", "max_error",
)  # fmt: skip
_COMPILED = ("compiled_ms", "compiled_mib")


def main() -> int:
    """Parse the arguments and run one of the commands."""
    parser = Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    losses = commands.add_parser("losses", help="every loss against its plain formula")
    losses.add_argument("--only", choices=loss_cases(), metavar="NAME", help=f"one of {', '.join(loss_cases())}")
    losses.add_argument("--threads", choices=("one", "all", "both"), default="both")
    losses.add_argument("--device", type=torch.device, default="cpu")
    losses.add_argument("--compile", action="store_true", help="measure the formula under torch.compile too")
    losses.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as a list")
    losses.set_defaults(run=run_losses)
    step = commands.add_parser("step", help="what distillation adds to a training step")
    step.add_argument("--rounds", type=int, default=10, help="in each of which every part is timed once")
    step.add_argument("--json", type=Path, metavar="FILE", help="also write the medians")
    config_arguments(step)
    step.set_defaults(run=run_step)
    scaling = commands.add_parser("scaling", help="what a step costs each GPU and sends the others")
    config_arguments(scaling)
    scaling.set_defaults(run=run_scaling)
    read = commands.add_parser("read", help="an annotation file of COCO's size against Detectron2's reader")
    read.add_argument("--folder", type=Path, help="where to draw the files; default: a temporary folder")
    read.add_argument("--images", type=int, default=IMAGES)
    read.add_argument("--objects", type=int, default=OBJECTS)
    read.set_defaults(run=run_read)
    deploy = commands.add_parser("deploy", help="exported files beside PyTorch")
    deploy.add_argument("--format", choices=deploying.FORMATS, action="append", dest="forms", help="by default all")
    whose = deploy.add_mutually_exclusive_group()
    whose.add_argument("--train", action="store_true", help="the students of benchmarks/students, trained first")
    whose.add_argument("runs", nargs="*", default=[], metavar="RUN")
    deploy.set_defaults(run=run_deploy)
    arguments = parser.parse_args()
    return arguments.run(arguments)


def run_losses(arguments: argparse.Namespace) -> int:
    """Print a row a case; 1 when an error is beyond its tolerance."""
    everything = torch.get_num_threads()
    threads = {"one": [1], "all": [everything], "both": sorted({1, everything})}[arguments.threads]
    names = [arguments.only] if arguments.only else list(loss_cases())
    columns = _COLUMNS + _COMPILED if arguments.compile else _COLUMNS
    print(line(dict(zip(columns, columns, strict=True)), columns))
    measured = []
    for row in rows(names, threads, arguments.device, compiled=arguments.compile):
        print(line(row, columns), flush=True)
        measured.append(row)
    if arguments.json:
        arguments.json.write_text(json.dumps(measured, indent=1) + "\n")
    return 1 if any(row["max_error"] > row["tolerance"] for row in measured) else 0


def run_step(arguments: argparse.Namespace) -> int:
    """Print the parts of a training step."""
    import_losses(arguments.imports)
    with engine.dry_run(arguments.config_file, arguments.opts, arguments.allow_pickle, arguments.allow_code) as dry_run:
        times = step_times(dry_run, arguments.rounds)
    print(table(["", "median"], times.items()))
    if arguments.json:
        arguments.json.write_text(json.dumps(times, indent=1) + "\n")
    return 0


def run_scaling(arguments: argparse.Namespace) -> int:
    """Print a row a model that is held, run or sent."""
    import_losses(arguments.imports)
    with engine.dry_run(arguments.config_file, arguments.opts, arguments.allow_pickle) as dry_run:
        print(table(HEADER, scaling_rows(dry_run)))
    return 0


def run_read(arguments: argparse.Namespace) -> int:
    """Print a row a way of reading."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary) / "drawn"
        draw(folder, arguments.images, arguments.objects)
        rows_of_ways = read_rows(folder)
    print(table(rows_of_ways[0], [row.values() for row in rows_of_ways]))
    return 0


def run_deploy(arguments: argparse.Namespace) -> int:
    """Print a row a run and format, each as soon as it is measured."""
    drawn = not (arguments.runs or arguments.train)
    columns = deploying.DIFFERENCES if drawn else deploying.COLUMNS
    forms = arguments.forms or list(deploying.FORMATS)
    print(table(columns, []), flush=True)
    # Of this project's own configs, one is Python.
    with tempfile.TemporaryDirectory() as temporary, permitted(code=not arguments.runs):
        if arguments.train:
            found = trained_rows(forms)
        else:
            found = deploying.rows(arguments.runs or deploying.drawn_runs(Path(temporary)), forms, trained=not drawn)
        shown = []
        for row in found:
            print(f"| {' | '.join(row[name] for name in columns)} |", flush=True)
            shown.append(row)
    if not (arguments.runs or arguments.forms):
        deploying.write_page(shown, trained=arguments.train)
    return 0


def line(row: dict, columns: tuple[str, ...]) -> str:
    """A row as one line of text."""
    cells = [f"{row[c]:.3g}" if isinstance(row[c], float) else str(row[c]) for c in columns]
    return f"{cells[0]:<33}" + "".join(f"{cell:>{len(c) + 2}}" for c, cell in zip(columns[1:], cells[1:], strict=True))


if __name__ == "__main__":
    sys.exit(guarded(main))
