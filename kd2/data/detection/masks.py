"""COCO's masks, polygons or run-length codes: pycocotools reads past its memory on bad ones, so they are checked first.

A checked mask is a list of polygons, each x1, y1, x2, y2, ... in pixels, three points or more, or a run-length code
``{"size": [height, width], "counts": text}`` of its image, with a pixel or more.
"""

from typing import Any

import numpy as np

from kd2.data.detection.numbers import numbers
from kd2.data.findings import Findings

Mask = list | dict


def checked_mask(mask: Any, height: int, width: int) -> Mask | None:
    """What of a mask can be used for an image of ``height`` x ``width``: itself where it is right, None for nothing."""
    if isinstance(mask, dict):
        return _checked_code(mask, height, width)
    if not isinstance(mask, list):
        return None
    rings, reach = mask if isinstance(mask[0], list) else [mask], max(height, width)
    usable = [ring for ring in (_polygon(ring, reach) for ring in rings) if ring]
    return mask if usable == mask else usable or None


def tell_mask(mask: Any, usable: Mask | None, findings: Findings, where: str) -> None:
    """Say what ``checked_mask`` has made of a mask."""
    if usable is None:
        what = (
            "mask is neither polygons of three points or more nor a run-length code of its image with a pixel or more"
        )
        findings.dropped(what, where)
    elif isinstance(mask, list) and isinstance(mask[0], list) and len(usable) < len(mask):
        findings.dropped("part of a mask is no polygon of three points or more", where)
    elif isinstance(mask, list):
        findings.repaired("mask is a polygon without a list around it, or numbers as texts", where)


def mask_area(mask: Mask) -> float:
    """Area of a checked mask in pixels; polygons add up."""
    if isinstance(mask, dict):
        return float(_runs(mask["counts"])[1::2].sum())
    area = 0.0
    for ring in mask:
        x, y = np.array(ring, dtype=np.float64).reshape(-1, 2).T
        area += 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))
    return area


def mask_box(mask: Mask) -> list[float]:
    """The box (x, y, width, height) around a checked mask."""
    if isinstance(mask, dict):
        from pycocotools import mask as coco_mask

        return coco_mask.toBbox(mask).tolist()
    points = np.array([x for ring in mask for x in ring], dtype=np.float64).reshape(-1, 2)
    low, high = points.min(0), points.max(0)
    return [*low.tolist(), *(high - low).tolist()]


def _polygon(ring: Any, reach: int) -> list | None:
    """A ring of three points or more, all of them finite and at most an image's side outside; None for others."""
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        return None
    try:
        total = sum(ring)
        return ring if total == total and min(ring) >= -reach and max(ring) <= 2 * reach else None
    except TypeError:
        values = numbers(ring).tolist()
        return None if values == ring else _polygon(values, reach)


def _checked_code(code: dict, height: int, width: int) -> Mask | None:
    """A run-length code with its counts as text; None where it is not one of an image of this size, or has no pixel."""
    counts = code.get("counts")
    try:
        if [int(x) for x in code["size"]] != [height, width]:
            return None
        runs = _runs(counts) if isinstance(counts, str) else np.array(counts)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    whole = runs.ndim == 1 and runs.dtype.kind in "iu" and len(runs) > 0
    if not whole or int(runs.min()) < 0 or sum(runs.tolist()) != height * width or not runs[1::2].any():
        return None
    if isinstance(counts, str):
        return code if code["size"] == [height, width] else {"size": [height, width], "counts": counts}
    from pycocotools import mask as coco_mask

    packed = coco_mask.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": packed["counts"].decode()}


def _runs(text: str) -> np.ndarray:
    """The runs of a compressed code, int64, of background and object in turn; raises ValueError for other texts.

    Five bits a character, from ``0`` on; the sixth bit says that more follow. From the fourth on a run is written as
    its difference from the last but one.
    """
    codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - ord("0")
    last = codes & 32 == 0
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or not last[-1]:
        raise ValueError("no compressed run-length code")
    ends = np.flatnonzero(last)
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 7:
        raise ValueError("a run that no image has")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((codes & 31) << 5 * places, starts)
    runs -= np.where(codes[ends] & 16, 1 << 5 * lengths, 0)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs
