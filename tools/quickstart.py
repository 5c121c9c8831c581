"""Distill a small detector in minutes on a CPU and see what it gained.

python tools/quickstart.py
python tools/quickstart.py --data coco.json images/ --output output/own

Trains a student alone and the same student distilled, on drawn shapes with the teacher that comes with them, or on your
own COCO data (split and reduced in size) with a teacher that is trained first. Writes to the output folder the page
that tools/compare.py makes of them, report.html, and the distilled student as an ONNX file with what it finds.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # examples/ lies in the checkout alone

from kd2.cli import Parser, guarded


def main() -> int:
    """Parse the arguments, run, print the report."""
    parser = Parser(__doc__)
    parser.add_argument("--output", default="output/quickstart", metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier quick start in the output folder")
    parser.add_argument("--data", nargs=2, metavar=("JSON", "IMAGES"), help="your COCO instances file, your images")
    parser.add_argument("--seed", type=int, default=1, help="of the shapes or the split, and of every training")
    parser.add_argument("--iterations", type=int, metavar="N", help="of each training (default: the config's)")
    parser.add_argument("--train-teacher", action="store_true", help="train the teacher of the shapes here too")
    args = parser.parse_args()
    from examples.quickstart.run import quickstart  # what it lacks is one line

    quickstart(
        args.output, args.data, args.seed, args.iterations, overwrite=args.overwrite, train_teacher=args.train_teacher
    )
    print(Path(args.output, "report.md").read_text())
    print(f"The page with its pictures is {args.output}/report.html; the models are beside it.")
    print(f"The student for a device is {args.output}/student.onnx; what it finds is drawn in {args.output}/found.")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
