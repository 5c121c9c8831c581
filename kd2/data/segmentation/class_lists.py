"""Files that name the classes of a segmentation data set, as annotation tools write them."""

import csv

from kd2.data.root import text_lines
from kd2.distill import DataError

_LABELMAP = "# label:color_rgb"  # the first line of CVAT's and Datumaro's


def read_class_list(path: str) -> tuple[list[str], dict[str, str]]:
    """The class names of a file in order, and ``MAP``, value in the label files -> class, where it says so.

    - ``labelmap.txt`` of CVAT: ``name:red,green,blue:parts:actions`` a line, below a line that says so.
    - ``_classes.csv`` of Roboflow: ``value, name`` a line, below a line that says so.
    - Any other file: a name a line, no ``MAP``.

    Raises:
        DataError: the file cannot be read, or a line of the first two kinds has no value or no name.
    """
    lines = text_lines(path)
    if lines and lines[0].startswith(_LABELMAP):
        rows = [line.split(":")[1::-1] for line in lines[1:]]
    elif path.lower().endswith(".csv"):
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines)]
        rows = rows[1:] if rows and not rows[0][0].isdigit() else rows
    else:
        return lines, {}
    for row in rows:
        if len(row) != 2 or not all(row):
            raise DataError(f"{path}: {', '.join(row)!r}, expected a value of the label files and a name in each line")
    return [row[1] for row in rows], {row[0]: row[1] for row in rows}
