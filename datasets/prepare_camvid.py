"""CamVid as its authors publish it (pictures, and labels in 32 colors) to the layout that kd2 reads: 11 classes.

python datasets/prepare_camvid.py --images 701_StillsRaw_full --labels LabeledApproved_full --output datasets/camvid

Classes, their order and the split (367 train, 101 val, 233 test) are those of SegNet (Badrinarayanan et al., 2017).
"""

import os
import shutil
import sys

import numpy as np
from new_folder import new_folder
from PIL import Image

from kd2.cli import guarded
from kd2.cli_arguments import Parser
from kd2.data.findings import Findings
from kd2.data.segmentation.labels import Labels, packed
from kd2.data.segmentation.layouts import stems_of
from kd2.distill import DataError

# In the order of the classes: the colors that become this class, by their names in label_colors.txt.
CLASSES = (
    [(128, 128, 128)],  # Sky
    [(128, 0, 0), (0, 128, 64), (64, 192, 0), (64, 0, 64), (192, 0, 128)],  # Building, Bridge, Wall, Tunnel, Archway
    [(192, 192, 128), (0, 0, 64)],  # Column_Pole, TrafficCone
    [(128, 64, 128), (128, 0, 192), (192, 0, 64)],  # Road, LaneMkgsDriv, LaneMkgsNonDriv
    [(0, 0, 192), (64, 192, 128), (128, 128, 192)],  # Sidewalk, ParkingBlock, RoadShoulder
    [(128, 128, 0), (192, 192, 0)],  # Tree, VegetationMisc
    [(192, 128, 128), (128, 128, 64), (0, 64, 64)],  # SignSymbol, Misc_Text, TrafficLight
    [(64, 64, 128)],  # Fence
    # Car, SUVPickupTruck, Truck_Bus, Train, OtherMoving
    [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],  # Pedestrian, Child, CartLuggagePram, Animal
    [(0, 128, 192), (192, 0, 192)],  # Bicyclist, MotorcycleScooter
)
READER = Labels({packed(c): i for i, colors in enumerate(CLASSES) for c in colors}, [packed((0, 0, 0))], colors=True)
VOID = 11


def split_of(stem: str) -> str:
    """The split of a picture such as 0016E5_07959 or Seq05VD_f00030."""
    sequence, _, frame = stem.partition("_")
    digits = frame.lstrip("f")
    if sequence not in ("0001TP", "0006R0", "0016E5", "Seq05VD") or not digits.isdigit():
        raise DataError(f"picture {stem!r} is not of CamVid, expected names such as 0016E5_07959")
    number = int(digits)
    if sequence == "Seq05VD" or sequence == "0001TP" and number >= 8550:
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= number <= 8159 else "train"


def main() -> int:
    """Convert every picture and its label."""
    parser = Parser(__doc__)
    parser.add_argument("--images", required=True, metavar="FOLDER", help="pictures, NAME.png")
    parser.add_argument("--labels", required=True, metavar="FOLDER", help="their labels, NAME_L.png")
    parser.add_argument("--output", required=True, metavar="FOLDER", help="a folder that does not exist yet")
    parser.add_argument(
        "--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="SegNet: 480 360; default: as is"
    )
    args = parser.parse_args()
    counts = dict.fromkeys(("train", "val", "test"), 0)
    with new_folder(args.output) as folder:
        for split in counts:
            os.mkdir(os.path.join(folder, split))
            os.mkdir(os.path.join(folder, f"{split}annot"))
        for stem, path in stems_of(args.images, "", Findings(args.images)).items():
            split = split_of(stem)
            classes = READER.read(os.path.join(args.labels, f"{stem}_L.png"))
            label = Image.fromarray(np.minimum(classes, VOID))
            image = os.path.join(folder, split, os.path.basename(path))
            if args.size:
                label = label.resize(args.size, Image.Resampling.NEAREST)
                with Image.open(path) as picture:
                    picture.convert("RGB").resize(args.size, Image.Resampling.BICUBIC).save(image)
            else:
                shutil.copyfile(path, image)
            label.save(os.path.join(folder, f"{split}annot", f"{stem}.png"))
            counts[split] += 1
    print(f"{args.output}: " + ", ".join(f"{count} {split}" for split, count in counts.items()) + " images")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
