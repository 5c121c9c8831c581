"""The public segmentation data sets in the folders they come in, and plain pairs of folders."""

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from kd2.data.findings import Findings
from kd2.data.images import ENDINGS
from kd2.data.root import files_below, text_lines
from kd2.data.segmentation import class_names
from kd2.data.segmentation.class_names import Color
from kd2.data.segmentation.labels import Labels
from kd2.distill import IGNORE_LABEL, DataError


@dataclass(frozen=True)
class Layout:
    """Where images and labels lie and what the labels mean.

    An image is ``images``/STEM``image_suffix`` (empty: any ending of a picture), its label
    ``labels``/STEM``label_suffix``; STEM may hold sub folders. ``listed``: a text file of stems; empty: all images.
    """

    images: str
    labels: str
    classes: tuple[str, ...]
    reader: Labels
    image_suffix: str = ""
    label_suffix: str = ".png"
    listed: str = ""
    colors: tuple[Color, ...] = ()

    def pairs(self, findings: Findings) -> list[tuple[str, str]]:
        """Image and label files in the order of their names or of the list.

        Args:
            findings: takes what is left out, and lines of the list that are no stems.

        Raises:
            DataError: a missing folder or file, no images, or two images of one stem.
        """
        images = stems_of(self.images, self.image_suffix, findings)
        present = set(_files(self.labels))
        stems = self._listed(images, findings) if self.listed else list(images)
        if not stems:
            raise DataError(f"{self.listed or self.images}: the data set has no images")
        for stem in stems:
            if stem + self.label_suffix not in present:
                label = os.path.join(self.labels, stem + self.label_suffix)
                raise DataError(f"{images[stem]}: its label file {label} does not exist")
        return [(images[stem], os.path.join(self.labels, stem + self.label_suffix)) for stem in stems]

    def _listed(self, images: Mapping[str, str], findings: Findings) -> list[str]:
        """The stems of the list, once each; a line may name a file with its ending."""
        stems: dict[str, None] = {}
        for line in text_lines(self.listed):
            stem = line if line in images else os.path.splitext(line)[0]
            if stem not in images:
                raise DataError(f"{self.listed}: {line!r} has no image in {self.images}")
            if stem != line:
                findings.repaired("line of the list names a file, its ending is left out", line)
            if stem in stems:
                findings.dropped("image is listed twice", line)
            stems[stem] = None
        return list(stems)


def stems_of(folder: str, suffix: str, findings: Findings) -> dict[str, str]:
    """Stem -> path of the images below ``folder`` that end in ``suffix`` (empty: any picture), in order of names.

    Without a suffix, files that are no pictures by their ending are told.
    """
    found: dict[str, str] = {}
    for name in _files(folder):
        stem, ending = (name[: -len(suffix)], suffix) if suffix else os.path.splitext(name)
        if not suffix and ending.lower() not in ENDINGS:
            findings.dropped(f"file is left out, pictures end in {', '.join(ENDINGS)}", name)
        if not (name.endswith(suffix) if suffix else ending.lower() in ENDINGS):
            continue
        path = os.path.join(folder, name)
        if stem in found:
            raise DataError(f"{path} and {os.path.basename(found[stem])} have one stem, expected one image a label")
        found[stem] = path
    return found


def cityscapes(root: str, split: str, labels: str = "gtFine") -> Layout:
    """leftImg8bit and ``labels`` (gtFine or gtCoarse): labelTrainIds files when there are any, else labelIds."""
    folder = os.path.join(root, labels, split)
    trained = f"_{labels}_labelTrainIds.png"
    ready = any(name.endswith(trained) for name in _files(folder))
    count = len(class_names.CITYSCAPES)
    ids = dict(zip(range(count) if ready else class_names.CITYSCAPES_IDS, range(count)))
    reader = Labels(ids, [IGNORE_LABEL] if ready else [*(set(range(34)) - set(ids)), IGNORE_LABEL])
    suffix = trained if ready else f"_{labels}_labelIds.png"
    return Layout(
        os.path.join(root, "leftImg8bit", split),
        folder,
        class_names.CITYSCAPES,
        reader,
        "_leftImg8bit.png",
        suffix,
        colors=class_names.CITYSCAPES_COLORS,
    )


def camvid(root: str, split: str) -> Layout:
    """``split`` and ``split``annot as in SegNet's tutorial; 11 is void."""
    classes = class_names.CAMVID
    folders = os.path.join(root, split), os.path.join(root, f"{split}annot")
    return Layout(*folders, classes, contiguous(len(classes), [11, IGNORE_LABEL]), colors=class_names.CAMVID_COLORS)


def ade20k(root: str, split: str) -> Layout:
    """ADEChallengeData2016: images/``split`` and annotations/``split``; 0 is everything else."""
    classes = class_names.ADE20K
    reader = Labels({value + 1: value for value in range(len(classes))}, [0])
    return Layout(os.path.join(root, "images", split), os.path.join(root, "annotations", split), classes, reader)


def voc(root: str, split: str, labels: str = "SegmentationClass") -> Layout:
    """A folder VOC2012: ``labels`` may be SegmentationClassAug. The border, 255, is ignored."""
    classes = class_names.VOC
    return Layout(
        os.path.join(root, "JPEGImages"),
        os.path.join(root, labels),
        classes,
        contiguous(len(classes), [IGNORE_LABEL]),
        listed=os.path.join(root, "ImageSets", "Segmentation", f"{split}.txt"),
        colors=voc_colors(len(classes)),
    )


def coco_stuff(root: str, split: str) -> Layout:
    """COCO's ``split`` folder and stuffthingmaps/``split``; files hold the id less one, 255 is unlabeled."""
    ids = {number - 1: index for index, number in enumerate(class_names.COCO_STUFF_IDS)}
    folders = os.path.join(root, split), os.path.join(root, "stuffthingmaps", split)
    unused = [number - 1 for number in class_names.COCO_STUFF_UNUSED]
    return Layout(*folders, class_names.COCO_STUFF, Labels(ids, [*unused, IGNORE_LABEL]))


# Key of an entry -> layout and the further keys it takes.
LAYOUTS = {
    "CITYSCAPES": (cityscapes, {"LABELS"}),
    "CAMVID": (camvid, set()),
    "ADE20K": (ade20k, set()),
    "VOC_SEG": (voc, {"LABELS"}),
    "COCO_STUFF": (coco_stuff, set()),
}


def contiguous(count: int, ignored: Collection[int]) -> Labels:
    """Labels whose files hold the classes 0..count-1."""
    return Labels({index: index for index in range(count)}, ignored)


def voc_colors(count: int) -> tuple[Color, ...]:
    """The colors of Pascal VOC: the bits of the index go in turns to red, green and blue, from their top bits on."""

    def channel(index: int, shift: int) -> int:
        return sum((index >> 3 * k + shift & 1) << 7 - k for k in range(8))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(count))


def _files(folder: str) -> list[str]:
    """Sorted paths of all files below ``folder``, relative to it, without hidden ones."""
    if not os.path.isdir(folder):
        raise DataError(f"folder {folder} does not exist")
    return sorted(files_below(folder))
