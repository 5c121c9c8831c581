"""Does distillation pay? Trains the student alone and with each loss over several seeds, and keeps every result.

    python benchmarks/pays.py --data bccd --seeds 5
    python benchmarks/pays.py --data camvid --seeds 5 --only alone --only pixelwise --iterations 300

What is run stands in benchmarks/grids/DATA.yaml. Every run is a process of tools/train_net.py with one thread. Its
start and its end are a line each of benchmarks/results/DATA.jsonl, and a run found there is not repeated: the command
goes on where it was stopped. Two of them may work side by side.
"""

import argparse
import sys
from collections.abc import Collection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ lies in the checkout alone

from benchmarks.proof.fingerprint import ROOT
from benchmarks.proof.grid import MAIN, Grid
from benchmarks.proof.journal import FINISHED, Journal
from benchmarks.proof.page import write_page
from benchmarks.proof.series import ROUNDS, Series, costliest, lengthened
from benchmarks.proof.teachers import teacher_of
from kd2.cli import guarded
from kd2.cli_arguments import Parser, positive
from kd2.distill import ConfigError

RESULTS = ROOT / "benchmarks" / "results"
_LENGTH = "of every student (default: the grid's); a road's teacher always has those of its config"


def main() -> int:
    """Parse the arguments, work through the grid and write the page; 1 when a run failed."""
    args = arguments()
    grid, journal = Grid(args.data), Journal(RESULTS / f"{args.data}.jsonl")
    series = Series(journal, again=args.again)
    road = grid.road(args.road, args.variant)
    rows = grid.rows(args.variant, args.only)
    finished = args.table or work(args, grid, series, road, rows)
    write_page(grid, journal, series.output, ROOT / "docs" / "results.md", args.teacher)
    return 0 if finished else 1


def arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--data", required=True, metavar="NAME", help="a file of benchmarks/grids")
    parser.add_argument("--road", metavar="NAME", help="detectron2, torchvision or timm (default: the grid's first)")
    parser.add_argument("--variant", default=MAIN, metavar="SECTION", help="another section of the grid")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="a row; may be given several times")
    parser.add_argument("--seeds", type=positive, metavar="N", help="how many (default: the section's)")
    parser.add_argument("--first-seed", type=positive, default=1, metavar="K", help="the first one (default 1)")
    parser.add_argument("--iterations", type=positive, metavar="N", help=_LENGTH)
    parser.add_argument("--teacher", metavar="FILE", help="weights (default: the grid's below $DETECTRON2_DATASETS)")
    parser.add_argument("--again", action="store_true", help="repeat the runs that failed")
    parser.add_argument("--table", action="store_true", help="train nothing, write docs/results.md alone")
    return parser.parse_args()


def work(args: argparse.Namespace, grid: Grid, series: Series, road: str, rows: Collection[str]) -> bool:
    """Work through a section of the grid; whether every run finished that no other process has.

    Raises:
        ConfigError: a teacher is given to a section that has one of its own; see ``Series.prepare``.
    """
    section = args.variant
    if args.teacher and "teacher" in grid.section(section):
        raise ConfigError(
            f"--teacher is {args.teacher!r}, but the section {section} has a teacher of its own: leave it out"
        )
    weights = series.prepare(teacher_of(grid, road, section, args.teacher, args.iterations, series.output))
    seeds = range(args.first_seed, args.first_seed + (args.seeds or grid.section(section)["seeds"]))
    every = grid.runs(road, section, seeds, weights, args.iterations)
    runs = [run for run in every if run.row in rows]
    longer = any(run.longer for run in runs)
    series.measure([run for run in every if run.seed == seeds[0] and run.default and (longer or run.row in rows)])
    if longer and (found := costliest(every, series.journal)):
        print(f"r = {found[1]}: step of {found[0]} / step of the student alone, median of {ROUNDS} interleaved pairs")
    ends = [series.train(run) for run in lengthened(runs, every, series.journal)]
    return all(end is None or end["status"] == FINISHED for end in ends)


if __name__ == "__main__":
    sys.exit(guarded(main))
