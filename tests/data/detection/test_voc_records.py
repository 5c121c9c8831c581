"""Reading Pascal VOC folders."""

import pytest

from kd2.data.detection.voc import read_voc
from kd2.distill import DataError


def thing(name: str = "dog", box: tuple = (3, 4, 12, 23), extra: str = "") -> str:
    edges = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{extra}<bndbox>{edges}</bndbox></object>"


def page(*things: str, size: str = "<width>40</width><height>30</height>") -> str:
    return f"<annotation><size>{size}</size>{''.join(things)}</annotation>"


@pytest.fixture
def read(tmp_path):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)

    def read_pages(listed: str = None, images=None, **pages: str):
        for stem, text in pages.items():
            (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
        for name in images or [f"{stem}.jpg" for stem in pages]:
            (tmp_path / "JPEGImages" / name).touch()
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("\n".join(pages) if listed is None else listed)
        return read_voc("mine", str(tmp_path), "train")

    return read_pages


def test_a_box_is_one_based_and_inclusive(read):
    assert read(a=page(thing(box=(3, 4, 12, 23)))).records[0]["annotations"][0]["bbox"] == [2, 3, 10, 20]


def test_a_box_over_the_whole_image_fits(read):
    assert read(a=page(thing(box=(1, 1, 40, 30)))).records[0]["annotations"][0]["bbox"] == [0, 0, 40, 30]


def test_a_record_has_file_size_and_number(read, tmp_path):
    record = read(a=page(thing()), b=page(thing())).records[1]
    assert {k: v for k, v in record.items() if k != "annotations"} == {
        "file_name": str(tmp_path / "JPEGImages" / "b.jpg"),
        "width": 40,
        "height": 30,
        "image_id": 1,
    }


def test_an_image_may_have_any_ending(read, tmp_path):
    assert read(images=["a.png"], a=page(thing())).records[0]["file_name"] == str(tmp_path / "JPEGImages" / "a.png")


def test_classes_are_all_names_of_the_folder_in_alphabetical_order(read):
    data = read(listed="a", a=page(thing("dog")), b=page(thing("cat")))
    assert (data.classes, data.records[0]["annotations"][0]["category_id"]) == (("cat", "dog"), 1)


def test_only_listed_images_are_read(read):
    assert [r["image_id"] for r in read(listed="b 1\n\n", a=page(thing()), b=page(thing())).records] == [0]


@pytest.mark.parametrize(("mark", "crowd"), [("", 0), ("0", 0), ("1", 1)])
def test_a_difficult_object_becomes_crowd(read, mark, crowd):
    extra = f"<difficult>{mark}</difficult>"
    assert read(a=page(thing(extra=extra))).records[0]["annotations"][0]["iscrowd"] == crowd


@pytest.mark.parametrize("box", [(-3, 4, 12, 23), (3, 4, 43, 23), (3, 4, 12, 99)])
def test_a_box_outside_the_image_is_refused(read, box):
    with pytest.raises(DataError, match=r"a.xml: object 'dog': box .* leaves the image .*a.jpg of 40 x 30 pixels$"):
        read(a=page(thing(box=box)))


def test_a_box_without_area_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: object 'dog': box .* has no area in .*a.jpg$"):
        read(a=page(thing(box=(12, 4, 11, 23))))


def test_a_coordinate_that_is_no_number_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: <bndbox/xmax> is 'far', expected a number$"):
        read(a=page(thing(box=(3, 4, "far", 23))))


def test_an_object_without_name_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: no <name> in <object>$"):
        read(a=page(thing("")))


def test_an_image_without_size_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: no <size/height> in <annotation>$"):
        read(a=page(thing(), size="<width>40</width>"))


def test_a_listed_image_without_annotation_file_is_refused(read):
    with pytest.raises(DataError, match=r"train.txt: 'b' has no annotation file .*b.xml$"):
        read(listed="a\nb", a=page(thing()))


def test_a_listed_image_without_image_file_is_refused(read):
    with pytest.raises(DataError, match=r"train.txt: 'a' has no image in .*JPEGImages$"):
        read(images=["z.jpg"], a=page(thing()))


def test_a_broken_annotation_file_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: not a readable annotation file: "):
        read(a="<annotation>")


@pytest.mark.parametrize(
    ("part", "missing"), [("ImageSets", "train.txt"), ("Annotations", "Annotations"), ("JPEGImages", "JPEGImages")]
)
def test_a_missing_part_of_the_folder_is_refused(read, tmp_path, part, missing):
    read(a=page(thing()))
    (tmp_path / part).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{missing}: No such file or directory$"):
        read_voc("mine", str(tmp_path), "train")


def test_an_empty_list_is_refused(read):
    with pytest.raises(DataError, match="train.txt: the data set has no images$"):
        read(listed="", a=page(thing()))


def test_no_objects_at_all_are_refused(read):
    with pytest.raises(DataError, match="train.txt: no image has annotations$"):
        read(a=page())
