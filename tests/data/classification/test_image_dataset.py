"""Readers of classification data: folders, ZIP, npz, Parquet; and what they refuse."""

import io
import os
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kd2.data.classification.image_dataset import joined, of_one_run, read_folder, read_zip
from kd2.data.classification.tables import read_npz, read_parquet
from kd2.distill import ConfigError, DataError

FILES = {"cat/a.png": 10, "cat/deep/b.png": 20, "dog/c.png": 30}


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 200)).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(folder: Path) -> str:
    for name, value in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(value))
    (folder / "cat" / "notes.txt").write_text("no image")
    (folder / "README").write_text("no class")
    return str(folder)


def write_zip(path: Path) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, value in FILES.items():
            archive.writestr(name, encoded(value))
    return str(path)


def arrays(**changes) -> dict[str, np.ndarray]:
    files = [encoded(value) for value in FILES.values()]
    content = {
        "image": np.frombuffer(b"".join(files), np.uint8),
        "offset": np.cumsum([0, *map(len, files)]),
        "label": np.array([0, 0, 1], np.uint8),
        "name": np.array(["cat/a.png", "cat/b.png", "dog/c.png"], np.bytes_),
    }
    return {key: value for key, value in (content | changes).items() if value is not None}


def write_npz(path: Path, **changes) -> str:
    np.savez(path, **arrays(**changes))
    return str(path)


def write_parquet(path: Path) -> str:
    images = [{"bytes": encoded(v), "path": ""} for v in FILES.values()]
    names = b'{"info": {"features": {"label": {"names": ["cat", "dog"]}}}}'
    return write_table(path, {"image": images, "label": [0, 0, 1]}, {b"huggingface": names})


def write_table(path: Path, columns: dict[str, list], about: dict[bytes, bytes] | None = None) -> str:
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table(columns).replace_schema_metadata(about), path)
    return str(path)


READERS = {
    "folder": (read_folder, write_folder),
    "zip": (read_zip, write_zip),
    "npz": (read_npz, write_npz),
    "parquet": (read_parquet, write_parquet),
}


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_gives_the_same_images_classes_and_labels(kind, tmp_path):
    read, write = READERS[kind]
    data = read("pets", write(tmp_path / f"data.{kind}"))
    assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [0, 0, 1])
    image = data.pixels(1)
    assert (tuple(image.shape), image.dtype) == ((3, 3, 4), torch.uint8)
    assert image[:, 0, 0].tolist() == [20, 0, 200]


def test_an_npz_without_names_calls_its_classes_by_number(tmp_path):
    assert read_npz("pets", write_npz(tmp_path / "data.npz", name=None)).classes == ("0", "1")


def test_a_gray_image_is_read_as_rgb(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("L", (2, 2), 7).save(tmp_path / name / "gray.png")
    assert read_folder("gray", str(tmp_path)).pixels(0).tolist() == [[[7, 7], [7, 7]]] * 3


def test_data_sets_in_a_row_are_one(tmp_path):
    one = read_npz("one", write_npz(tmp_path / "one.npz"))
    both = joined([one, read_zip("two", write_zip(tmp_path / "two.zip"))])
    assert both.labels.tolist() == [0, 0, 1, 0, 0, 1]
    assert [int(both.pixels(i)[0, 0, 0]) for i in range(6)] == [10, 20, 30, 10, 20, 30]


@pytest.mark.parametrize("kind", ["folder", "zip", "npz"])
def test_an_image_that_does_not_decode_is_named(kind, tmp_path, monkeypatch):
    read, write = READERS[kind]
    monkeypatch.setattr(f"{__name__}.encoded", lambda value: b"\x89PNG broken")
    data = read("pets", write(tmp_path / f"data.{kind}"))
    with pytest.raises(DataError, match=r"data.*: image 2 \(dog.c.png\): not a readable image: of no format"):
        data.pixels(2)


def test_a_truncated_image_is_named(tmp_path):
    folder = write_folder(tmp_path / "data")
    path = os.path.join(folder, "cat", "a.png")
    Path(path).write_bytes(encoded(10)[:45])
    with pytest.raises(DataError, match=r"image 0 \(cat.a.png\): not a readable image: "):
        read_folder("pets", folder).pixels(0)


def test_a_damaged_member_of_an_archive_is_named(tmp_path):
    path = tmp_path / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/a.png", encoded(10))
        start = archive.getinfo("cat/a.png").header_offset + 30 + len("cat/a.png")
    content = bytearray(path.read_bytes())
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data.zip: image 0 \(cat/a.png\): not a readable image: Error -3"):
        read_zip("pets", str(path)).pixels(0)


def test_an_image_of_too_many_pixels_is_named(tmp_path, monkeypatch):
    data = read_folder("pets", write_folder(tmp_path / "data"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(DataError, match=r"image 0 \(cat/a.png\): more than 10 pixels"):
        data.pixels(0)


def test_an_empty_class_folder_is_named(tmp_path):
    folder = write_folder(tmp_path / "data")
    os.mkdir(os.path.join(folder, "emu"))
    with pytest.raises(DataError, match="data: no image of class emu; remove it or add images$"):
        read_folder("pets", folder)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match=": the data set has no images$"):
        read_folder("pets", str(tmp_path))


def test_a_label_with_two_names(tmp_path):
    path = write_npz(tmp_path / "data.npz", label=np.array([0, 1, 1], np.uint8))
    with pytest.raises(DataError, match="label 1 belongs to 'cat' and, at 'dog/c.png', to 'dog'$"):
        read_npz("pets", path)


def test_an_npz_that_skips_a_class(tmp_path):
    path = write_npz(tmp_path / "data.npz", label=np.array([0, 0, 2], np.uint8))
    with pytest.raises(DataError, match="no image of class 1"):
        read_npz("pets", path)


def test_an_npz_without_offsets(tmp_path):
    path = write_npz(tmp_path / "data.npz", offset=None)
    with pytest.raises(DataError, match="data.npz has no offset, expected the arrays image, offset and label$"):
        read_npz("pets", path)


def test_offsets_that_do_not_fit(tmp_path):
    path = write_npz(tmp_path / "data.npz", offset=np.array([0, 5, 9, 12]))
    with pytest.raises(
        DataError, match="data.npz: offset has 4 entries up to 12, expected 4 ascending ones from 0 up to "
    ):
        read_npz("pets", path)


@pytest.mark.parametrize("read, text", [(read_npz, "no NumPy archive"), (read_zip, "no ZIP file")])
def test_a_file_of_another_kind(read, text, tmp_path):
    path = tmp_path / "file"
    path.write_text("hello")
    with pytest.raises(DataError, match=f"file: {text}"):
        read("pets", str(path))


def test_parquet_without_pyarrow_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="^DATASETS.CUSTOM.pets: PARQUET needs the package pyarrow: pip install "):
        read_parquet("pets", "x.parquet")


def test_a_folder_of_parquet_files_with_plain_bytes(tmp_path):
    for number, value in enumerate((10, 20)):
        write_table(tmp_path / f"part-{number}.parquet", {"image": [encoded(value)], "label": [number]})
    data = read_parquet("pets", str(tmp_path))
    assert (data.classes, [int(data.pixels(i)[0, 0, 0]) for i in range(2)]) == (("0", "1"), [10, 20])


def test_a_broken_image_in_a_parquet_file_is_named(tmp_path):
    path = write_table(tmp_path / "x.parquet", {"image": [encoded(10), b"broken", None], "label": [0, 0, 0]})
    for row in (1, 2):
        with pytest.raises(DataError, match=rf"x.parquet: image {row} \(row {row}\): not a readable image"):
            read_parquet("pets", path).pixels(row)


def test_a_parquet_file_without_images(tmp_path):
    path = write_table(tmp_path / "x.parquet", {"img": [b""], "label": [0]})
    with pytest.raises(DataError, match="x.parquet has no column image; its columns: img, label$"):
        read_parquet("pets", path)


def test_a_file_that_is_not_parquet(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(DataError, match="x.parquet: no Parquet file: "):
        read_parquet("pets", str(tmp_path / "x.parquet"))


def test_data_sets_of_one_run_meet_by_the_names_of_their_classes(tmp_path):
    train = read_zip("train", write_zip(tmp_path / "train.zip"))
    path = write_npz(tmp_path / "test.npz", label=np.array([1, 1, 0]), name=np.array(["cat/a", "cat/b", "dog/c"]))
    test = read_npz("test", path)
    assert test.classes == ("dog", "cat") and test.labels.tolist() == [1, 1, 0]
    both = of_one_run([train, test])
    assert [data.classes for data in both] == [("cat", "dog")] * 2
    assert [data.labels.tolist() for data in both] == [[0, 0, 1]] * 2
    assert of_one_run([train], ["dog", "emu", "cat"])[0].labels.tolist() == [2, 2, 0]
    with pytest.raises(DataError, match="train.zip has the classes cat, dog, the run's are cat, emu: "):
        of_one_run([train], ["cat", "emu"])


def test_what_systems_and_archivers_hide_is_no_image_and_no_class(tmp_path):
    path = write_zip(tmp_path / "data.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/cat/._a.png", b"no image")
        archive.writestr("cat/._b.png", b"no image")
    folder = write_folder(tmp_path / "data")
    (tmp_path / "data" / ".ipynb_checkpoints").mkdir()
    (tmp_path / "data" / "cat" / "._a.png").write_bytes(b"no image")
    for data in (read_zip("pets", path), read_folder("pets", folder)):
        assert (data.classes, data.labels.tolist()) == (("cat", "dog"), [0, 0, 1])


def test_files_that_are_no_pictures_by_their_ending_are_told(tmp_path):
    [(verdict, _, count, places)] = read_folder("pets", write_folder(tmp_path / "data")).findings.rows()
    assert (verdict, count, places) == ("dropped", 1, os.path.join("cat", "notes.txt"))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": np.array([0.5, 0, 1])}, r"label has float64 of shape \(3,\), expected a row of integers"),
        ({"label": np.array([[0], [0], [1]])}, r"label has int64 of shape \(3, 1\), expected a row of integers"),
        ({"label": np.array([0, 0, -1])}, "labels reach from -1 to 0, expected 0 to "),
        ({"label": np.array([0, 0, 1 << 40]), "name": None}, "label 1099511627776, expected numbers of classes, below"),
        ({"image": np.zeros(9, np.uint16)}, r"image has uint16 of shape \(9,\), expected a row of uint8"),
        ({"offset": np.array(["a"] * 4)}, "offset has <U1 of shape"),
        ({"name": np.array([1, 2, 3])}, "name has int64 of shape"),
        ({"name": np.array(["cat/a"])}, "name has 1 entries, label 3$"),
        ({"name": np.array(["a", "b", "c"])}, "name has 'a', expected CLASS/file$"),
        ({"name": np.array([b"cat/a", b"cat/b", b"\xff/c"])}, "name is not in UTF-8"),
        ({"name": np.array(["cat/a", "cat/b", "cat/c"])}, "2 classes have the name 'cat'$"),
        ({"label": np.array([None, 0, 1], object)}, "no NumPy archive of plain arrays"),
    ],
)
def test_arrays_of_the_wrong_kind_are_named(change, text, tmp_path):
    with pytest.raises(DataError, match=f"data.npz: {text}"):
        read_npz("pets", write_npz(tmp_path / "data.npz", **change))


@pytest.mark.parametrize("labels", [["cat", "dog"], [0.0, 1.0], [0, None]])
def test_labels_of_a_parquet_file_that_are_no_integers_are_named(labels, tmp_path):
    path = write_table(tmp_path / "x.parquet", {"image": [encoded(10)] * 2, "label": labels})
    with pytest.raises(DataError, match="x.parquet: column label has .*, expected integers$"):
        read_parquet("pets", path)


@pytest.mark.parametrize("about", [b"{", b"[]", b'{"info": {"features": {"label": {"names": [1]}}}}'])
def test_metadata_of_another_form_are_named(about, tmp_path):
    path = write_table(tmp_path / "x.parquet", {"image": [encoded(10)], "label": [0]}, {b"huggingface": about})
    with pytest.raises(DataError, match="x.parquet: its metadata "):
        read_parquet("pets", path)


def test_a_row_of_another_type_is_named(tmp_path):
    path = write_table(tmp_path / "x.parquet", {"image": ["text"], "label": [0]})
    with pytest.raises(DataError, match=r"x.parquet: image 0 \(row 0\): not a readable image"):
        read_parquet("pets", path).pixels(0)


def test_deep_pictures_are_scaled_by_the_pixel_range_or_refused(tmp_path):
    (tmp_path / "cat").mkdir()
    ramp = np.array([0, 1000, 2048, 4095, 60000], dtype="<u2")
    Image.frombytes("I;16", (5, 1), ramp.tobytes()).save(tmp_path / "cat" / "ramp.png")
    data = read_folder("pets", str(tmp_path))
    with pytest.raises(DataError, match=r"image 0 \(cat.ramp.png\): a picture of more than 8 bits \(mode I;16\)"):
        data.pixels(0)
    assert replace(data, pixel_range=[0, 4095]).pixels(0).tolist() == [[[0, 62, 128, 255, 255]]] * 3


def test_pictures_in_archives_are_brought_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    stored, buffer = np.arange(12, dtype=np.uint8).reshape(3, 4), io.BytesIO()
    Image.fromarray(stored).save(buffer, "PNG", exif=exif)
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
        archive.writestr("cat/a.png", buffer.getvalue())
    assert read_zip("pets", str(tmp_path / "data.zip")).pixels(0)[0].tolist() == np.rot90(stored, -1).tolist()


def test_a_whole_member_with_the_wrong_checksum_is_named(tmp_path):
    """Stored, not deflated: nothing but the CRC tells."""
    path, content = tmp_path / "data.zip", encoded(10)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/a.png", content)
    path.write_bytes(path.read_bytes().replace(content, content[:-12] + b"\1" + content[-11:], 1))
    with pytest.raises(DataError, match=r"data.zip: image 0 \(cat/a.png\): not a readable image: Bad CRC-32"):
        read_zip("pets", str(path)).pixels(0)
