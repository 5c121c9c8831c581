"""Archives and texts of data sets: what stands in them is neither run nor written nor fetched."""

import os
import pickle
import zipfile

import numpy as np
import pytest

from kd2.data.classification.image_dataset import read_zip
from kd2.data.classification.tables import read_npz, read_parquet
from kd2.data.detection.voc import read_voc
from kd2.distill import DataError

from ..helpers.image_files import draw


class Harm:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("key", ["image", "offset", "label", "name"])
def test_an_archive_of_numpy_runs_no_code(tmp_path, key):
    arrays = {
        "image": np.zeros(4, np.uint8),
        "offset": np.array([0, 4]),
        "label": np.array([0]),
        "name": np.array(["a"]),
    }
    arrays[key] = np.array([Harm(tmp_path / "marker")], dtype=object)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match="a.npz: no NumPy archive of plain arrays"):
        read_npz("drawn", str(tmp_path / "a.npz"))
    assert os.listdir(tmp_path) == ["a.npz"]


def test_a_parquet_file_runs_no_code(tmp_path):
    """The metadata by which pyarrow before 14 unpickled a type."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    marks = {
        b"ARROW:extension:name": b"arrow.py_extension_type",
        b"ARROW:extension:metadata": pickle.dumps(Harm(tmp_path / "marker")),
    }
    fields = [pa.field("image", pa.binary(), metadata=marks), pa.field("label", pa.int64())]
    parquet.write_table(pa.table([[b"x"], [0]], schema=pa.schema(fields)), tmp_path / "a.parquet")
    read_parquet("drawn", str(tmp_path / "a.parquet"))
    assert os.listdir(tmp_path) == ["a.parquet"]


def test_names_in_an_archive_write_nothing(tmp_path):
    (tmp_path / "inner").mkdir()
    with zipfile.ZipFile(tmp_path / "inner" / "a.zip", "w") as archive:
        for name in ("cat/in.png", "../out.png", "../../out.png", "/out.png", "cat/../../out.png"):
            archive.writestr(name, b"x")
    data = read_zip("drawn", str(tmp_path / "inner" / "a.zip"))
    for i in range(len(data)):
        with pytest.raises(DataError, match="not a readable image"):
            data.pixels(i)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["inner", "inner/a.zip"]


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "{secret}">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
        '<!DOCTYPE a [<!ENTITY y "z"><!ENTITY x "' + 9 * "&y;" + '">]>',
    ],
)
def test_an_annotation_takes_in_no_other_file(tmp_path, head):
    (tmp_path / "secret").write_text("the content")
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (tmp_path / part).mkdir(parents=True)
    draw(tmp_path / "JPEGImages/a.png", size=(8, 8))
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\n")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>5</ymax></bndbox>"
    text = f"<annotation><object><name>&x;</name>{box}</object></annotation>"
    (tmp_path / "Annotations/a.xml").write_text(head.replace("{secret}", str(tmp_path / "secret")) + text)
    try:
        found = " ".join(read_voc("drawn", str(tmp_path), "train").classes)
    except DataError as error:
        found = str(error)
    assert "the content" not in found
