"""Write what a detector finds in a folder of images as a COCO file with scores, a data set like any other.

    python tools/pseudo_label.py --config-file configs/bccd/teacher.yaml --images more --to more.json \
        MODEL.WEIGHTS output/bccd/teacher/model_final.pth

The size of the images, suppression and number of detections are those of the config's evaluation. The file is used as
``DATASETS.CUSTOM.more: {JSON: more.json, IMAGES: more}``.
"""

import sys

from kd2.cli import Parser, config_arguments, guarded
from kd2.config.reading import literal
from kd2.distill.values import Texts, check_value
from kd2.engine.pseudo_labels import check_new, find_objects, write_coco


def main() -> int:
    """Parse the arguments, find, write."""
    parser = Parser(__doc__)
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of images, and of folders of them")
    parser.add_argument("--to", required=True, metavar="FILE", help="the file to write; one that exists is kept")
    parser.add_argument("--score", type=float, default=0.5, help="least score of a detection, 0 to 1; default 0.5")
    parser.add_argument(
        "--classes", type=literal, default=[], metavar="LIST",
        help="names in the order of the model's outputs, where its checkpoint does not tell them: \"['cat', 'dog']\"",
    )  # fmt: skip
    config_arguments(parser)
    args = parser.parse_args()
    check_value("--classes", args.classes, Texts)
    check_new(args.to)
    content = find_objects(
        args.config_file, args.opts, args.images, args.score, args.classes, args.allow_pickle, args.allow_code
    )
    write_coco(content, args.to)
    print(f"{args.to}: {len(content['annotations'])} objects in {len(content['images'])} images")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
