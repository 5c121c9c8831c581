"""Does distillation pay? Trains the student alone and with each loss over several seeds, and keeps every result.

    python benchmarks/pays.py --data bccd --seeds 5
    python benchmarks/pays.py --data camvid --seeds 5 --only alone --only pixelwise --iterations 300

What is run stands in benchmarks/grids/DATA.yaml. Every run is a process of tools/train_net.py with one thread. Its
start and its end are a line each of benchmarks/results/DATA.jsonl, and a run found there is not repeated: the command
goes on where it was stopped. Two of them may work side by side.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # benchmarks/ lies in the checkout alone

from benchmarks.proof.grid import MAIN, ROOT, Grid
from benchmarks.proof.journal import FINISHED, Journal
from benchmarks.proof.series import Series
from kd2.cli import Parser, guarded


def main() -> int:
    """Parse the arguments and work through the grid; 1 when a run failed."""
    parser = Parser(__doc__)
    parser.add_argument("--data", required=True, metavar="NAME", help="a file of benchmarks/grids")
    parser.add_argument("--road", metavar="NAME", help="detectron2, torchvision or timm (default: the grid's first)")
    parser.add_argument("--variant", default=MAIN, metavar="SECTION", help="another section of the grid")
    parser.add_argument("--only", action="append", default=[], metavar="ROW", help="a row; may be given several times")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="how many (default 5)")
    parser.add_argument("--first-seed", type=int, default=1, metavar="K", help="the first one (default 1)")
    parser.add_argument("--iterations", type=int, metavar="N", help="of every training (default: the grid's)")
    parser.add_argument("--teacher", metavar="FILE", help="weights (default: the grid's below $DETECTRON2_DATASETS)")
    parser.add_argument("--again", action="store_true", help="repeat the runs that failed")
    args = parser.parse_args()
    series = Series(Journal(ROOT / "benchmarks" / "results" / f"{args.data}.jsonl"), again=args.again)
    grid = Grid(args.data)
    road = grid.road(args.road)
    weights = series.teacher(grid, road, args.teacher)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    runs = grid.runs(road, args.variant, seeds, weights, args.iterations)
    ends = [series.train(run) for run in series.timed(runs, grid.rows(args.variant, args.only))]
    return 0 if all(end is None or end["status"] == FINISHED for end in ends) else 1


if __name__ == "__main__":
    sys.exit(guarded(main))
