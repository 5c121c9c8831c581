"""Reading Pascal VOC folders."""

import pytest

from kd2.data.detection.voc import read_voc
from kd2.distill import DataError

from ...helpers.image_files import draw


def thing(name: str = "dog", box: tuple = (3, 4, 12, 23), extra: str = "") -> str:
    edges = "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box))
    return f"<object><name>{name}</name>{extra}<bndbox>{edges}</bndbox></object>"


def page(*things: str, size: str = "<width>40</width><height>30</height>") -> str:
    return f"<annotation><size>{size}</size>{''.join(things)}</annotation>"


@pytest.fixture
def read(tmp_path):
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)

    def read_pages(listed=None, images=None, classes=None, **pages: str):
        for stem, text in pages.items():
            (tmp_path / "Annotations" / f"{stem}.xml").write_text(text)
        for name in images or [f"{stem}.jpg" for stem in pages]:
            draw(tmp_path / "JPEGImages" / name, size=(40, 30))
        text = "\n".join(pages) if listed is None else listed
        (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_voc("mine", str(tmp_path), "train", classes)

    return read_pages


def boxes(data) -> list:
    return [a["bbox"] for r in data.records for a in r["annotations"]]


def told(data) -> list[tuple]:
    return list(data.findings.rows())


def test_a_box_is_one_based_and_inclusive(read):
    assert boxes(read(a=page(thing(box=(3, 4, 12, 23))))) == [[2, 3, 10, 20]]


def test_a_box_over_the_whole_image_fits(read):
    assert boxes(read(a=page(thing(box=(1, 1, 40, 30))))) == [[0, 0, 40, 30]]


def test_boxes_with_fractions_are_corners_from_0_with_a_word(read, tmp_path):
    data = read(a=page(thing(box=("2.00", "3.00", "12.00", "23.00"))))
    assert boxes(data) == [[2, 3, 10, 20]]
    what = "boxes have fractions, they are taken as corners from 0 as CVAT and VoTT write them"
    assert told(data) == [("noted", what, 1, str(tmp_path / "ImageSets" / "Main" / "train.txt"))]


def test_one_fraction_among_whole_numbers_changes_nothing(read):
    data = read(a=page(thing(box=(3, 4, 12, 23)), thing(box=(3, 4, 12, 23)), thing(box=(3, 4, 12, "22.5"))))
    assert boxes(data)[0] == [2, 3, 10, 20]


def test_a_record_has_file_size_and_number(read, tmp_path):
    record = read(a=page(thing()), b=page(thing())).records[1]
    assert {k: v for k, v in record.items() if k != "annotations"} == {
        "file_name": str(tmp_path / "JPEGImages" / "b.jpg"),
        "width": 40,
        "height": 30,
        "image_id": 1,
    }


def test_an_image_may_have_any_ending(read, tmp_path):
    assert read(images=["a.PNG"], a=page(thing())).records[0]["file_name"] == str(tmp_path / "JPEGImages" / "a.PNG")


@pytest.mark.parametrize("other", ["a.txt", "a.json", "a.xml", "._a.jpg"])
def test_other_files_of_the_same_name_are_no_images(read, tmp_path, other):
    (tmp_path / "JPEGImages" / other).write_text("0 0.5 0.5 0.1 0.1")
    assert read(a=page(thing())).records[0]["file_name"] == str(tmp_path / "JPEGImages" / "a.jpg")


def test_of_several_images_the_annotation_names_its_own(read, tmp_path):
    text = page(thing()).replace("<size>", "<filename>a.png</filename><size>")
    record = read(images=["a.jpg", "a.png"], a=text).records[0]
    assert record["file_name"] == str(tmp_path / "JPEGImages" / "a.png")


def test_several_images_that_nothing_tells_apart_are_refused(read):
    with pytest.raises(DataError, match=r"train.txt: 'a' has several images: .*a.jpg, .*a.png$"):
        read(images=["a.jpg", "a.png"], a=page(thing()))


def test_classes_are_all_names_of_the_folder_in_alphabetical_order(read):
    data = read(listed="a", a=page(thing("dog")), b=page(thing("cat")))
    assert (data.classes, data.records[0]["annotations"][0]["category_id"]) == (("cat", "dog"), 1)


def test_names_have_no_spaces_around_them(read):
    assert read(a=page(thing(" dog\n"), thing("dog"))).classes == ("dog",)


def test_parts_of_an_object_are_no_objects(read):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>4</xmax><ymax>4</ymax></bndbox></part>"
    data = read(a=page(thing(extra=part).replace("<object>", f"<object>{part}")))
    assert (data.classes, boxes(data)) == (("dog",), [[2, 3, 10, 20]])


def test_chosen_classes_are_renamed_and_the_others_left_out_with_a_word(read):
    data = read(classes={"dog": "pet", "cow": "cow"}, a=page(thing("dog"), thing("cat")))
    assert (data.classes, boxes(data)) == (("pet", "cow"), [[2, 3, 10, 20]])
    assert told(data) == [
        ("noted", "CLASSES has a name that no annotation file has", 1, "cow"),
        ("dropped", "object of a class that CLASSES does not name", 1, "a.xml cat"),
    ]


@pytest.mark.parametrize(
    "listed", ["b 1\n\n", "b  -1\n", "b.jpg\r\n", b"\xef\xbb\xbfb\r\n", "b.xml", "b.jpg 0"], ids=repr
)
def test_a_list_may_have_endings_flags_and_a_byte_order_mark(read, tmp_path, listed):
    data = read(listed=listed, a=page(thing()), b=page(thing()))
    assert [r["file_name"] for r in data.records] == [str(tmp_path / "JPEGImages" / "b.jpg")]


@pytest.mark.parametrize("name", ["Screenshot (573)", "frame 1", "v1.2", "deep/er/one"])
def test_names_may_have_spaces_points_and_sub_folders(read, tmp_path, name):
    (tmp_path / "Annotations" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "Annotations" / f"{name}.xml").write_text(page(thing()))
    data = read(listed=name, images=[f"{name}.jpg"])
    assert data.records[0]["file_name"] == str(tmp_path / "JPEGImages" / f"{name}.jpg")


def test_an_image_that_is_listed_twice_is_read_once_with_a_word(read):
    data = read(listed="a\na\n", a=page(thing()))
    assert (len(data.records), told(data)) == (1, [("dropped", "image is listed twice", 1, "a")])


@pytest.mark.parametrize(("mark", "crowd"), [("", 0), ("0", 0), ("1", 1)])
def test_a_difficult_object_becomes_crowd(read, mark, crowd):
    extra = f"<difficult>{mark}</difficult>"
    assert read(a=page(thing(extra=extra))).records[0]["annotations"][0]["iscrowd"] == crowd


def test_a_box_that_leaves_its_image_is_cut_with_a_word(read):
    data = read(a=page(thing(), thing(box=(3, 4, 99, 23))))
    assert boxes(data)[1] == [2, 3, 38, 20]
    assert told(data) == [("repaired", "box leaves its image, cut", 1, "a.xml dog")]


def test_a_box_without_area_is_left_out_with_a_word(read):
    data = read(a=page(thing(), thing(box=(12, 4, 11, 23))))
    assert (len(boxes(data)), told(data)) == (1, [("dropped", "box has no area", 1, "a.xml dog")])


@pytest.mark.parametrize("size", ["<width>0</width><height>0</height>", "<width>40</width>", ""])
def test_a_size_that_is_missing_is_read_from_the_picture(read, size):
    data = read(a=page(thing(), size=size))
    assert (data.records[0]["width"], data.records[0]["height"]) == (40, 30)
    assert told(data) == [("repaired", "image has no size, read from its picture", 1, "a.jpg")]


def test_a_size_that_is_not_the_pictures_is_refused(read):
    with pytest.raises(DataError, match=r"a.jpg: recorded as 30 x 40 pixels, the picture has 40 x 30 \(1 of 1"):
        read(a=page(thing(), size="<width>30</width><height>40</height>"))


def test_a_coordinate_that_is_no_number_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: <bndbox/xmax> is 'far', expected a number$"):
        read(a=page(thing(box=(3, 4, "far", 23))))


def test_an_object_without_name_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: no <name> in <object>$"):
        read(a=page(thing("")))


def test_an_object_without_box_is_refused(read):
    with pytest.raises(DataError, match=r"a.xml: no <bndbox/xmin> in <object>$"):
        read(a=page("<object><name>dog</name><polygon><x1>1</x1></polygon></object>"))


def test_a_listed_image_without_annotation_file_is_refused(read):
    with pytest.raises(DataError, match=r"train.txt: 'b' has no annotation file; choices: a$"):
        read(listed="a\nb", a=page(thing()))


def test_a_listed_image_without_image_file_is_refused(read):
    with pytest.raises(DataError, match=r"train.txt: 'a' has no image in .*JPEGImages$"):
        read(images=["z.jpg"], a=page(thing()))


@pytest.mark.parametrize("text", ["<annotation>", "", "\x00", "<?xml version='1.0' encoding='none'?><annotation/>"])
def test_a_broken_annotation_file_is_refused(read, text):
    with pytest.raises(DataError, match=r"a.xml: not a readable annotation file: "):
        read(a=text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_an_annotation_file_that_defines_entities_is_refused(read, tmp_path, encoding):
    text = '<!DOCTYPE a [<!ENTITY b "bbbb">]><annotation>&b;</annotation>'
    (tmp_path / "Annotations" / "b.xml").write_bytes(text.encode(encoding))
    with pytest.raises(DataError, match=r"b.xml: no annotation file: it is larger than .* or defines entities$"):
        read(a=page(thing()))


def test_a_huge_annotation_file_is_refused(read, tmp_path):
    with open(tmp_path / "Annotations" / "b.xml", "wb") as file:
        file.truncate(1 << 25)
    with pytest.raises(DataError, match=r"b.xml: no annotation file: it is larger than 16777216 bytes"):
        read(a=page(thing()))


def test_files_that_a_system_hides_are_no_annotations(read, tmp_path):
    (tmp_path / "Annotations" / "._a.xml").write_bytes(b"\x00\x05\x16\x07")
    assert len(read(a=page(thing())).records) == 1


def test_endings_may_be_in_capitals(read, tmp_path):
    (tmp_path / "Annotations" / "b.XML").write_text(page(thing()))
    assert len(read(listed="b", images=["b.JPG"]).records) == 1


def test_two_annotation_files_of_one_image_are_refused(read, tmp_path):
    (tmp_path / "Annotations" / "a.XML").write_text(page(thing()))
    with pytest.raises(DataError, match=r"a.XML and .*a.xml are both annotation files of one image$"):
        read(a=page(thing()))


def test_pictures_and_annotations_side_by_side_are_a_split(tmp_path):
    draw(tmp_path / "valid" / "a_jpg.rf.1.jpg", size=(40, 30))
    (tmp_path / "valid" / "a_jpg.rf.1.xml").write_text(page(thing()))
    assert boxes(read_voc("mine", str(tmp_path), "valid")) == [[2, 3, 10, 20]]


def test_a_folder_of_images_may_be_called_so(read, tmp_path):
    read(a=page(thing()))
    (tmp_path / "JPEGImages").rename(tmp_path / "images")
    assert read_voc("mine", str(tmp_path), "train").records[0]["file_name"] == str(tmp_path / "images" / "a.jpg")


def test_another_layout_is_named(read, tmp_path):
    text = (
        r"there is neither the list ImageSets/Main/val.txt \(a name a line, beside Annotations and JPEGImages or "
        r"images\) nor a folder val with pictures and annotation files; found Annotations, ImageSets, JPEGImages$"
    )
    read(a=page(thing()))
    with pytest.raises(DataError, match=text):
        read_voc("mine", str(tmp_path), "val")


@pytest.mark.parametrize("part", ["Annotations", "JPEGImages"])
def test_a_missing_part_of_the_folder_is_refused(read, tmp_path, part):
    read(a=page(thing()))
    (tmp_path / part).rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=f"{part}/?: No such file or directory$"):
        read_voc("mine", str(tmp_path), "train")


def test_an_empty_list_is_refused(read):
    with pytest.raises(DataError, match="train.txt: the data set has no images$"):
        read(listed="", a=page(thing()))


def test_a_set_without_objects_is_read_with_a_word(read):
    assert [what for _, what, _, _ in told(read(a=page()))] == ["no image has an object"]
