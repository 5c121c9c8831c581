"""Add the segmentations of SBD (Hariharan et al., 2011) to Pascal VOC 2012: 10582 training images instead of 1464.

python datasets/prepare_voc_seg.py --voc datasets/VOCdevkit/VOC2012 --sbd benchmark_RELEASE/dataset

Writes SegmentationClassAug (VOC's own label wherever there is one) and ImageSets/Segmentation/train_aug.txt: every
image with a label that is not in VOC's val.txt. Needs scipy.
"""

import os
import shutil
import sys

from new_folder import new_folder
from PIL import Image
from scipy.io import loadmat

from kd2.cli import guarded
from kd2.cli_arguments import Parser
from kd2.data.findings import Findings
from kd2.data.root import text_lines
from kd2.data.segmentation.layouts import stems_of
from kd2.distill import DataError
from kd2.runs.files import write_atomically


def sbd_label(path: str) -> Image.Image:
    """The label of an SBD file as a picture of the values 0..20."""
    try:
        return Image.fromarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except (ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise DataError(f"{path}: not a class segmentation of SBD: {error}") from error


def main() -> int:
    """Write the label folder, then the list."""
    parser = Parser(__doc__)
    parser.add_argument("--voc", required=True, metavar="FOLDER", help="VOC2012, with SegmentationClass and ImageSets")
    parser.add_argument("--sbd", required=True, metavar="FOLDER", help="SBD's folder dataset, with cls")
    args = parser.parse_args()
    lists, output = os.path.join(args.voc, "ImageSets", "Segmentation"), os.path.join(args.voc, "SegmentationClassAug")
    listed = os.path.join(lists, "train_aug.txt")
    if os.path.lexists(listed):
        raise DataError(f"{listed} exists, expected a list still to be made")
    val = set(text_lines(os.path.join(lists, "val.txt")))
    own = stems_of(os.path.join(args.voc, "SegmentationClass"), ".png", Findings(args.voc))
    more = stems_of(os.path.join(args.sbd, "cls"), ".mat", Findings(args.sbd))
    with new_folder(output) as folder:
        for stem, path in (more | own).items():
            target = os.path.join(folder, f"{stem}.png")
            if stem in own:
                shutil.copyfile(path, target)
            else:
                sbd_label(path).save(target)
        train = sorted((own.keys() | more.keys()) - val)
        write_atomically("".join(f"{stem}\n" for stem in train), listed)
    added = len(more.keys() - own.keys())
    print(f"{output}: {len(own)} labels of VOC, {added} of SBD; {len(train)} images in train_aug")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
