"""Draw what distillation sees: masks, weights and attention of the losses, and what each network finds and misses.

python tools/look.py --config-file configs/coco/fgd_imitation.yaml --output output/look
python tools/look.py --config-file RUN/config.yaml --alone ALONE/model_final.pth --images a.jpg --output look

TensorBoard shows the same pictures: tensorboard --logdir output/look
"""

import sys

from kd2.cli import Parser, config_arguments, guarded
from kd2.engine.permission import permitted
from kd2.losses import import_losses
from kd2.report.look import look
from kd2.report.page import write_pictures


def main() -> int:
    """Parse the arguments, draw, print the files."""
    parser = Parser(__doc__)
    parser.add_argument("--output", required=True, metavar="DIR", help="a folder without pictures of an earlier look")
    parser.add_argument("--images", nargs="+", default=[], metavar="FILE", help="pictures of the config's data sets")
    parser.add_argument("--count", type=int, default=3, help="without --images: how many are chosen (default: 3)")
    parser.add_argument("--weights", default="", metavar="FILE", help="distilled student (default: that of OUTPUT_DIR)")
    parser.add_argument("--alone", default="", metavar="FILE", help="the student that learned alone, for comparison")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures of an earlier look")
    config_arguments(parser)
    args = parser.parse_args()
    import_losses(args.imports)
    with permitted(code=args.allow_code):
        pictures = look(
            args.config_file, args.opts, images=args.images, count=args.count, weights=args.weights, alone=args.alone,
            allow_pickle=args.allow_pickle,
        )  # fmt: skip
    for caption, path in write_pictures(args.output, pictures, args.overwrite):
        print(f"{args.output}/{path}: {caption}")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
