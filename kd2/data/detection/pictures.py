"""The picture of a record: where it lies, and whether it has the size that the record says."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from kd2.data.detection.numbers import whole
from kd2.data.findings import Findings
from kd2.data.images import note_orientation, read_header, size_text
from kd2.data.root import files_of, inside
from kd2.distill import DataError

# Reading headers waits for the disk.
_THREADS = 8


class Pictures:
    """The pictures of a folder, by the names that annotation files give them.

    Args:
        folder: searched for names without a path once; those with one are looked for where they lead.
        names: all names of the file; a path of another machine counts by its last part where these differ.
    """

    def __init__(self, folder: str, names: Iterable[str], source: str, findings: Findings):
        self.folder, self.source, self.findings = folder, source, findings
        self._present = files_of(folder)
        last = [_last(name) for name in names]
        self._distinct = len(set(last)) == len(last)

    def find(self, name: str) -> str:
        """The path of a picture; raises DataError when it is not there."""
        if name in self._present:
            return inside(self.folder, name, self.source)
        slashed = name.replace("\\", "/")
        if "/" in slashed and os.path.isfile(os.path.join(self.folder, slashed)):
            return inside(self.folder, slashed, self.source)
        if self._distinct and _last(name) in self._present:
            self.findings.repaired("path of an image is none here, the picture of that name is taken", name)
            return inside(self.folder, _last(name), self.source)
        like = [file for file in self._present if file.lower() == _last(name).lower()]
        hint = f", {like[0]!r} is" if like else ""
        raise DataError(f"{self.source}: image {name!r} is not in {self.folder}{hint}")


def set_sizes(records: list[dict], given: Sequence[tuple[Any, Any]], findings: Findings, headers: bool) -> None:
    """Give every record its size in pixels: what the file says, otherwise what the picture's header says.

    A picture of more than 8 bits gets ``depth`` too, see ``kd2.data.images.Header``.

    Args:
        given: height and width in the file, in whatever form.
        headers: hold every record against the header of its picture, not only those without a size.

    Raises:
        DataError: a picture whose header cannot be read, or that has another size.
    """
    sizes = [(whole(height), whole(width)) for height, width in given]
    asked = [i for i, size in enumerate(sizes) if headers or None in size]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(asked, pool.map(read_header, [records[i]["file_name"] for i in asked])))
    for i, (record, size) in enumerate(zip(records, sizes)):
        if None in size:
            findings.repaired("image has no size, read from its picture", os.path.basename(record["file_name"]))
        record["height"], record["width"] = found[i].size if None in size else size
    wrong = [i for i, header in found.items() if header.size != (records[i]["height"], records[i]["width"])]
    if wrong:
        record = records[wrong[0]]
        text = size_text(record["file_name"], (record["height"], record["width"]), found[wrong[0]])
        raise DataError(f"{findings.source}: {text} ({len(wrong)} of {len(records)} images)")
    for i, header in found.items():
        note_orientation(records[i]["file_name"], header, findings)
        if header.depth:
            records[i]["depth"] = header.depth


def _last(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1]
