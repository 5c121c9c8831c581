"""The console commands behind training: a model as a file for a device, and what it finds on pictures."""

import argparse
import sys

from kd2.cli import guarded, table
from kd2.cli_arguments import Parser, code_argument, config_arguments, score
from kd2.config.reading import literal
from kd2.deploy import export as exporting
from kd2.deploy.load import load
from kd2.distill.values import Texts, check_value
from kd2.engine.permission import permitted

_EXPORT = """Write the student of a run as one file for a device, with pre- and post-processing inside.

%(prog)s --run output/bccd/imitation --format onnx --evaluate

The file takes uint8 RGB pixels. It is run on 20 images of the test set and compared with PyTorch; the exit code is 1
when they differ by more than rounding.
"""
_PREDICT = """Draw what the student of a run, or an exported file, finds on pictures, and write it as a COCO JSON.

%(prog)s --run output/bccd/imitation photos/ more.jpg --output output/found

The exit code is 1 when a picture could not be read; the others are predicted nevertheless.
"""
_PSEUDO_LABEL = """Write what a detector finds in a folder of images as a COCO file with scores: a data set like others.

%(prog)s --config-file my_teacher.yaml --images more --to more.json MODEL.WEIGHTS my_teacher.pth

The size of the images, suppression and number of detections are those of the config's evaluation. The file is used as
DATASETS.CUSTOM.more: {JSON: more.json, IMAGES: more}. Images that cannot be read are left out; the exit code is then 1.
"""


def export() -> int:
    """The command ``kd2-export``."""
    return guarded(lambda: run_export(export_parser().parse_args()))


def predict() -> int:
    """The command ``kd2-predict``."""
    return guarded(lambda: run_predict(predict_parser().parse_args()))


def pseudo_label() -> int:
    """The command ``kd2-pseudo-label``."""
    return guarded(lambda: run_pseudo_label(pseudo_label_parser().parse_args()))


def export_parser() -> argparse.ArgumentParser:
    """The arguments of an export."""
    parser = Parser(_EXPORT)
    parser.add_argument("--run", required=True, metavar="DIR", help="the folder of a run")
    parser.add_argument("--format", required=True, help=", ".join(exporting.FORMATS))
    parser.add_argument("--output", default="", metavar="FILE", help="by default student.* in the folder of the run")
    parser.add_argument("--overwrite", action="store_true", help="replace the file where there is one")
    parser.add_argument("--evaluate", action="store_true", help="scores and latency on the whole test sets, too")
    _weights_argument(parser)
    code_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="override keys of the run's config")
    return parser


def predict_parser() -> argparse.ArgumentParser:
    """The arguments of a prediction."""
    parser = Parser(_PREDICT)
    parser.add_argument("--run", required=True, metavar="DIR", help="the folder of a run, or an exported file")
    parser.add_argument("--output", default="predictions", metavar="DIR", help="for drawn pictures and the JSON")
    parser.add_argument(
        "--min-score", type=score, default=0.5, help="of detections that are drawn; the JSON has all (default 0.5)"
    )
    _weights_argument(parser)
    code_argument(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="pictures and folders of pictures")
    return parser


def pseudo_label_parser() -> argparse.ArgumentParser:
    """The arguments of making labels."""
    parser = Parser(_PSEUDO_LABEL)
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of images, and of folders of them")
    parser.add_argument("--to", required=True, metavar="FILE", help="the file to write; one that exists is kept")
    parser.add_argument("--score", type=score, default=0.5, help="least score of a detection (default 0.5)")
    parser.add_argument(
        "--classes", type=literal, default=[], metavar="LIST",
        help="names in the order of the model's outputs, where its checkpoint does not tell them: \"['cat', 'dog']\"",
    )  # fmt: skip
    config_arguments(parser)
    return parser


def run_export(args: argparse.Namespace) -> int:
    """Write, compare and, if asked for, evaluate; the exit code is 1 when the file is not the student."""
    with permitted(code=args.allow_code):
        job = exporting.prepare(args.run, args.format, args.output, args.overwrite, args.weights, args.opts)
    file = job.write()
    found = job.compare(file)
    print(f"{job.path}: {job.predictor.facts.architecture}", end="\n\n")
    images = f"on {found.pictures} image{'s' * (found.pictures != 1)}"
    print(table(["largest difference from PyTorch", images], found.rows()), flush=True)
    for name, sides in (job.evaluate(file) if args.evaluate else {}).items():
        rows = [[key, *(side.scores[key] for side in sides)] for key in sides[0].scores]
        rows.append(["milliseconds an image", *(side.latency for side in sides)])
        print("\n" + table([name, "PyTorch", args.format], rows))
    if not found.small():
        print(f"error: {job.path} does not find what PyTorch finds: rounding explains 0.01 at most", file=sys.stderr)
    return 0 if found.small() else 1


def run_predict(args: argparse.Namespace) -> int:
    """Draw and write; the exit code is 1 when a picture could not be read."""
    from kd2.deploy import predict as predicting  # needs torchvision, which files for training alone do without

    pictures = predicting.pictures_of(args.images)
    model = load(args.run, args.weights, args.allow_code)
    predicting.check_output(args.output, pictures)
    broken = []
    for path, count, problem in predicting.predict(model, pictures, args.output, args.min_score):
        broken += [problem] if problem else []
        print(f"{path}: {'left out' if problem else count}", flush=True)
    print(f"drawn in {args.output}, all found in {args.output}/{predicting.RESULTS}")
    return _told(broken)


def run_pseudo_label(args: argparse.Namespace) -> int:
    """Find, write, print the number of objects."""
    from kd2.engine.pseudo_labels import check_new, find_objects, write_coco  # needs pycocotools

    check_value("--classes", args.classes, Texts)
    check_new(args.to)
    content, broken = find_objects(
        args.config_file, args.opts, args.images, args.score, args.classes, args.allow_pickle, args.allow_code
    )
    write_coco(content, args.to)
    print(f"{args.to}: {len(content['annotations'])} objects in {len(content['images'])} images")
    return _told(broken)


def _told(broken: list[str]) -> int:
    """Tell what was wrong with the pictures that were left out; the exit code."""
    for problem in broken:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if broken else 0


def _weights_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights", default="", metavar="FILE", help="another checkpoint of the run, such as its model_best.pth"
    )
