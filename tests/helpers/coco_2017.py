"""A drawn data set in the layout of COCO 2017, with COCO's 80 categories and their ids."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

SIZES = [(96, 128), (128, 96), (100, 100), (90, 120)]  # (height, width)


def write_coco_2017(root: Path) -> None:
    """Write ``coco/annotations`` and ``coco/{train,val}2017`` below ``root``, which is $DETECTRON2_DATASETS.

    Each split has four small pictures of noise with three bright rectangles each, of categories that are drawn.
    """
    # torchvision lists the names by id; ids that COCO left out are called N/A.
    names = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    categories = [{"id": i, "name": name} for i, name in enumerate(names) if name not in ("__background__", "N/A")]
    draw = np.random.RandomState(0)
    for split in ("train2017", "val2017"):
        images, annotations = [], []
        folder = root / "coco" / split
        folder.mkdir(parents=True)
        for number, (height, width) in enumerate(SIZES):
            image_id = int(draw.randint(1, 100000)) * len(SIZES) + number
            pixels = draw.randint(0, 80, (height, width, 3), dtype=np.uint8)
            for k in range(3):
                w, h = draw.randint(16, 64, 2).tolist()
                x, y = draw.randint(0, width - w), draw.randint(0, height - h)
                pixels[y : y + h, x : x + w, k] = 220
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image_id, "iscrowd": 0, "bbox": [x, y, w, h], "area": w * h,
                    "category_id": categories[draw.randint(len(categories))]["id"],
                    "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
                })  # fmt: skip
            name = f"{image_id:012d}.jpg"
            Image.fromarray(pixels).save(folder / name)
            images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
        file = root / "coco" / "annotations" / f"instances_{split}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(content))
