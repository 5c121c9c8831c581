"""Reading COCO instances files."""

import json

import numpy as np
import pytest
from PIL import Image

from kd2.data.detection.coco import read_coco
from kd2.distill import DataError

from ...helpers.image_files import draw


def content(*boxes, **changes) -> dict:
    """Two images of 40 x 30 pixels; every box is an annotation of the first one, of category 5 (dog)."""
    annotations = [{"id": 7 + i, "image_id": 1, "category_id": 5, "bbox": list(box)} for i, box in enumerate(boxes)]
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (1, 2)],
        "categories": [{"id": 5, "name": "dog"}, {"id": 2, "name": "cat"}],
        "annotations": annotations,
    } | changes


def changed(**changes) -> dict:
    """One good annotation with some entries replaced; None takes the entry away."""
    result = content((1, 2, 10, 10))
    annotation = result["annotations"][0] | changes
    result["annotations"] = [{k: v for k, v in annotation.items() if v is not None}]
    return result


def first(data) -> dict:
    """The first annotation of a data set."""
    return data.records[0]["annotations"][0]


def told(data) -> list[tuple]:
    return list(data.findings.rows())


@pytest.fixture
def read(tmp_path):
    for name in ("1.jpg", "2.jpg", "deep/3.jpg"):
        draw(tmp_path / "images" / name, size=(40, 30))

    def read_content(what, images: str = "images", **options):
        text = what if isinstance(what, (str, bytes)) else json.dumps(what)
        (tmp_path / "data.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_coco("mine", str(tmp_path / "data.json"), str(tmp_path / images), **options)

    return read_content


def test_a_record_has_the_standard_keys(read, tmp_path):
    record = read(content((1, 2, 10, 10))).records[0]
    assert record == {
        "file_name": str(tmp_path / "images" / "1.jpg"),
        "height": 30,
        "width": 40,
        "image_id": 1,
        "annotations": [{"bbox": [1, 2, 10, 10], "category_id": 1, "iscrowd": 0, "area": 100}],
    }


def test_classes_come_in_the_order_of_their_ids(read):
    data = read(content((1, 2, 10, 10)))
    assert (data.classes, data.category_ids) == (("cat", "dog"), {"cat": 2, "dog": 5})


def test_ids_that_are_texts_are_ordered_as_numbers(read):
    categories = [{"id": "10", "name": "ten"}, {"id": "9", "name": "nine"}]
    assert read(content(categories=categories)).classes == ("nine", "ten")


def test_images_without_boxes_are_kept(read):
    assert [len(r["annotations"]) for r in read(content((1, 2, 10, 10))).records] == [1, 0]


def test_the_data_set_knows_its_name_and_file(read, tmp_path):
    data = read(content((1, 2, 10, 10)))
    assert (data.name, data.source) == ("mine", str(tmp_path / "data.json"))


def test_images_in_sub_folders_are_found(read, tmp_path):
    images = [{"id": 1, "file_name": "deep/3.jpg", "width": 40, "height": 30}]
    assert read(content((1, 2, 3, 4), images=images)).records[0]["file_name"] == str(tmp_path / "images" / "deep/3.jpg")


def test_crowd_is_kept(read):
    assert read(changed(iscrowd=1)).records[0]["annotations"][0]["iscrowd"] == 1


def test_a_box_on_the_border_is_kept(read):
    assert read(content((0, 0, 40, 30))).records[0]["annotations"][0]["bbox"] == [0, 0, 40, 30]


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "wide"], [1, 2, 3, [4]], 5])
def test_a_box_that_is_not_four_numbers_is_refused(read, box):
    with pytest.raises(DataError, match=r"annotation 7: box .* is not four numbers \(x, y, width, height\)$"):
        read(changed(bbox=box))


def test_an_unknown_category_is_refused(read):
    text = r"data.json: annotation 7: category_id 3 is not among the categories 2, 5$"
    with pytest.raises(DataError, match=text):
        read(changed(category_id=3))


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_an_annotation_that_lacks_an_entry_is_refused(read, key):
    with pytest.raises(DataError, match=f"data.json: annotation 7 has no '{key}'$"):
        read(changed(**{key: None}))


def test_two_images_with_one_id_are_refused(read):
    image = {"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}
    with pytest.raises(DataError, match="data.json: two images have the id 1$"):
        read(content((1, 2, 3, 4), images=[image, image]))


def test_a_category_without_a_name_is_refused(read):
    with pytest.raises(DataError, match="data.json: category 5 has no 'name'$"):
        read(content((1, 2, 3, 4), categories=[{"id": 5}]))


def test_a_missing_image_file_is_refused(read):
    images = [{"id": 1, "file_name": "gone.jpg", "width": 40, "height": 30}]
    with pytest.raises(DataError, match=r"data.json: image 'gone.jpg' is not in .*images$"):
        read(content((1, 2, 3, 4), images=images))


def test_a_missing_image_folder_is_refused(read):
    with pytest.raises(DataError, match=r"^image folder .*pictures: No such file or directory$"):
        read(content((1, 2, 3, 4)), images="pictures")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone.json: No such file or directory$"):
        read_coco("mine", str(tmp_path / "gone.json"), str(tmp_path))


def test_no_images_are_refused(read):
    with pytest.raises(DataError, match="data.json: the data set has no images$"):
        read(content(images=[]))


@pytest.mark.parametrize("text", ["", "{", '{"images": ['])
def test_text_that_is_no_json_is_refused(read, text):
    with pytest.raises(DataError, match="data.json: not a JSON file: "):
        read(text)


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_json_that_is_no_instances_file_is_refused(read, key):
    with pytest.raises(DataError, match=f"data.json: not a COCO instances file, it has no list '{key}'$"):
        read(content((1, 2, 3, 4), **{key: {}}))


def test_a_list_is_no_instances_file(read):
    with pytest.raises(DataError, match="data.json: not a COCO instances file"):
        read([])


@pytest.mark.parametrize("key", ["id", "file_name"])
def test_an_image_that_lacks_an_entry_is_refused(read, key):
    image = {"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}
    del image[key]
    with pytest.raises(DataError, match=f"data.json: image .* has no '{key}'$"):
        read(content((1, 2, 3, 4), images=[image]))


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((-1, 3, 10, 10), [0, 3, 9, 10]),
        ((3, -0.5, 10, 10), [3, 0, 10, 9.5]),
        ((31, 3, 10, 10), [31, 3, 9, 10]),
        ((3, 20.5, 10, 40), [3, 20.5, 10, 9.5]),
    ],
)
def test_a_box_that_leaves_its_image_is_cut_with_a_word(read, box, cut):
    data = read(content((1, 2, 10, 10), (1, 2, 10, 10), box))
    assert data.records[0]["annotations"][2]["bbox"] == cut
    assert data.records[0]["annotations"][2]["area"] == cut[2] * cut[3]
    assert told(data) == [("repaired", "box leaves its image, cut", 1, "annotation 9")]


def test_rounding_at_the_border_is_cut_without_a_word(read):
    data = read(content((30, 20, 10.0000001, 10)))
    assert (first(data)["bbox"], told(data)) == ([30, 20, 10, 10], [])


@pytest.mark.parametrize(
    ("box", "what"),
    [
        ((3, 3, 0, 5), "box has no area"),
        ((9, 9, -4, 4), "box has no area"),
        ((40, 3, 1, 5), "box lies outside its image"),
        ((1e300, 3, 1e300, 5), "box lies outside its image"),
    ],
)
def test_a_box_that_cannot_be_used_is_left_out_with_a_word(read, box, what):
    data = read(content((1, 2, 10, 10), (1, 2, 10, 10), box))
    assert len(data.records[0]["annotations"]) == 2
    assert told(data) == [("dropped", what, 1, "annotation 9")]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), None])
def test_the_image_of_an_object_in_an_unknown_place_is_an_ignored_region(read, number):
    data = read(content((1, 2, 10, 10), (1, 2, 10, 10), (3, 3, number, 5)))
    assert data.records[0]["annotations"][2] == {"bbox": [0, 0, 40, 30], "category_id": 1, "iscrowd": 1, "area": 1200}
    what = "box is not finite, the whole image is an ignored region of its class"
    assert ("dropped", what, 1, "annotation 9") in told(data)


@pytest.mark.parametrize("box", [None, [], [float("nan")] * 4])
def test_a_box_that_is_missing_is_made_of_the_mask(read, box):
    what = changed(segmentation=[[1, 2, 11, 2, 11, 12]])
    what["annotations"][0]["bbox"] = box
    assert first(read(what))["bbox"] == [1, 2, 10, 10]


def test_two_ids_of_one_picture_are_one_image_with_a_word(read):
    what = content((1, 2, 3, 4), (5, 6, 7, 8))
    what["images"][1]["file_name"] = "1.jpg"
    what["annotations"][1]["image_id"] = 2
    data = read(what)
    assert [len(record["annotations"]) for record in data.records] == [2]
    assert told(data) == [("repaired", "image has two ids, its entries are taken together", 1, "1.jpg")]


def test_corners_in_place_of_sizes_are_recognized(read):
    boxes = [(x, y, x + 8, y + 6) for x, y in ((5, 4), (20, 15), (25, 20), (30, 22))]
    with pytest.raises(DataError, match="data.json: 3 of 4 boxes are not x, y, .*; they look like x1, y1, x2, y2$"):
        read(content(*boxes))


def test_parts_of_the_image_in_place_of_pixels_are_recognized(read):
    with pytest.raises(
        DataError, match="data.json: 2 of 2 boxes are not .*; they look like parts of the image, from 0"
    ):
        read(content((0.1, 0.2, 0.3, 0.4), (0.5, 0.5, 0.5, 0.5)))


def test_more_than_half_of_the_boxes_off_are_no_accident(read):
    with pytest.raises(
        DataError, match="data.json: 2 of 3 boxes are not x, y, width, height in pixels of their image$"
    ):
        read(content((1, 2, 10, 10), (20, 2, 30, 10), (50, 2, 3, 3)))


def test_boxes_without_area_altogether_are_refused(read):
    with pytest.raises(
        DataError, match="data.json: 2 of 3 boxes have no area, expected x, y, width, height in pixels$"
    ):
        read(content((1, 2, 10, 10), (20, 2, 0, 10), (30, 2, -3, 3)))


def test_the_files_area_is_kept(read):
    assert first(read(changed(area=55.5)))["area"] == 55.5


@pytest.mark.parametrize("area", [0, -3, float("nan"), "much", [5]])
def test_an_area_that_is_none_is_made_of_the_box(read, area):
    assert first(read(changed(area=area)))["area"] == 100


def test_an_area_that_is_missing_is_made_of_the_mask(read):
    assert first(read(changed(segmentation=[[1, 2, 11, 2, 11, 12]])))["area"] == 50


def test_a_good_mask_is_kept(read):
    assert first(read(changed(segmentation=[[1, 2, 11, 2, 11, 12]])))["segmentation"] == [[1, 2, 11, 2, 11, 12]]


@pytest.mark.parametrize("area", [0.0, 25.0, None])
def test_a_mask_without_a_pixel_is_none(read, area):
    data = read(changed(segmentation={"size": [30, 40], "counts": [1200]}, area=area))
    assert first(data) == {"bbox": [1, 2, 10, 10], "category_id": 1, "iscrowd": 0, "area": area or 100}
    what = "mask is neither polygons of three points or more nor a run-length code of its image with a pixel or more"
    assert ("dropped", what, 1, "annotation 7") in told(data)


@pytest.mark.parametrize("flag", [1, "1", 1.0, True, "true"])
def test_crowd_has_many_spellings(read, flag):
    assert first(read(changed(iscrowd=flag)))["iscrowd"] == 1


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_a_flag_that_is_none_is_refused(read, key):
    with pytest.raises(DataError, match=f"data.json: annotation 7: {key} is 'yes', expected 0 or 1$"):
        read(changed(**{key: "yes"}))


def test_annotations_of_images_that_are_not_listed_are_left_out(read):
    what = content((1, 2, 10, 10), (1, 2, 10, 10), (1, 2, 10, 10))
    what["annotations"][1]["image_id"] = 9
    data = read(what)
    assert len(data.records[0]["annotations"]) == 2
    assert told(data) == [("dropped", "annotation of an image that is not listed", 1, "annotation 8")]


def test_annotations_of_other_images_altogether_are_refused(read):
    text = "data.json: 1 of 1 annotations are of images that are not listed, the first of image 9$"
    with pytest.raises(DataError, match=text):
        read(changed(image_id=9))


@pytest.mark.parametrize("key", ["image_id", "category_id"])
def test_a_number_that_is_none_is_refused(read, key):
    with pytest.raises(DataError, match=f"data.json: annotation 7 has no '{key}'$"):
        read(changed(**{key: [1]}))


def test_a_set_without_objects_is_read_with_a_word(read, tmp_path):
    assert told(read(content())) == [("noted", "no image has an object", 1, str(tmp_path / "data.json"))]


def test_a_size_that_is_not_the_pictures_is_refused(read):
    images = [{"id": i, "file_name": f"{i}.jpg", "width": 30, "height": 40} for i in (1, 2)]
    text = r"1.jpg: recorded as 30 x 40 pixels, the picture has 40 x 30 \(2 of 2 images\)$"
    with pytest.raises(DataError, match=text):
        read(content((1, 2, 3, 4), images=images))


def test_a_size_from_before_the_orientation_is_named(read, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 30, 3), np.uint8)).save(tmp_path / "images" / "1.jpg", exif=exif)
    images = [{"id": 1, "file_name": "1.jpg", "width": 30, "height": 40}]
    with pytest.raises(DataError, match="its size before its EXIF orientation"):
        read(content(images=images))


def test_without_headers_only_missing_sizes_are_read(read):
    images = [{"id": 1, "file_name": "1.jpg", "width": 30, "height": 40}, {"id": 2, "file_name": "2.jpg"}]
    records = read(content(images=images), headers=False).records
    assert [(r["width"], r["height"]) for r in records] == [(30, 40), (40, 30)]


def test_a_picture_that_is_none_is_named(read, tmp_path):
    (tmp_path / "images" / "2.jpg").write_text("<html>")
    with pytest.raises(DataError, match="2.jpg: not a readable image"):
        read(content((1, 2, 3, 4)))


def test_a_name_in_other_letters_is_named(read):
    images = [{"id": 1, "file_name": "1.JPG", "width": 40, "height": 30}]
    with pytest.raises(DataError, match="image '1.JPG' is not in .*images, '1.jpg' is$"):
        read(content(images=images))


def test_a_path_of_another_machine_is_not_followed_where_names_repeat(read):
    images = [{"id": i, "file_name": f"{i}/1.jpg", "width": 40, "height": 30} for i in (1, 2)]
    with pytest.raises(DataError, match="image '1/1.jpg' is not in"):
        read(content(images=images))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_the_encoding_is_recognized(read, encoding):
    what = content((1, 2, 3, 4), categories=[{"id": 5, "name": "собака"}])
    assert read(json.dumps(what, ensure_ascii=False).encode(encoding)).classes == ("собака",)


def test_names_are_texts_without_spaces_around(read):
    assert read(content(categories=[{"id": 1, "name": 3}, {"id": 5, "name": " dog "}])).classes == ("3", "dog")


def test_categories_of_one_name_are_one_class_with_a_word(read):
    data = read(content((1, 2, 3, 4), categories=[{"id": 2, "name": "dog"}, {"id": 5, "name": "dog"}]))
    assert (data.classes, first(data)["category_id"]) == (("dog",), 0)
    assert told(data) == [("repaired", "categories of one name are one class", 1, "dog")]


def test_a_parent_with_objects_of_its_own_is_a_class(read):
    categories = [{"id": 2, "name": "cat", "supercategory": "dog"}, {"id": 5, "name": "dog"}]
    assert read(content((1, 2, 3, 4), categories=categories)).classes == ("cat", "dog")


def test_chosen_classes_stand_in_their_order(read):
    data = read(content((1, 2, 3, 4)), classes={"dog": "dog", "cat": "cat"})
    assert (data.classes, first(data)["category_id"]) == (("dog", "cat"), 0)


def test_objects_of_other_classes_are_left_out_with_a_word(read):
    what = content((1, 2, 3, 4), (1, 2, 3, 4))
    what["annotations"][1]["category_id"] = 2
    data = read(what, classes={"cat": "cat"})
    assert (data.classes, len(data.records[0]["annotations"])) == (("cat",), 1)
    assert told(data) == [("dropped", "object of a category that CLASSES does not name", 1, "annotation 7")]


def test_classes_are_renamed_and_merged(read):
    what = content((1, 2, 3, 4), (1, 2, 3, 4))
    what["annotations"][1]["category_id"] = 2
    data = read(what, classes={"cat": "pet", "dog": "pet"})
    assert (data.classes, [a["category_id"] for a in data.records[0]["annotations"]]) == (("pet",), [0, 0])


def test_a_chosen_name_that_the_file_does_not_have_is_noted(read):
    data = read(content((1, 2, 3, 4)), classes={"dog": "dog", "cow": "cow"})
    assert told(data) == [("noted", "CLASSES has a name that no category of the file has", 1, "cow")]


def test_the_garbage_collector_runs_on_afterwards(read):
    import gc

    read(content((1, 2, 3, 4)))
    assert gc.isenabled()


def test_a_list_that_stands_twice_is_refused(tmp_path):
    text = '{"images": [], "annotations": [], "categories": [], "annotations": [{"id": 1}]}'
    (tmp_path / "data.json").write_text(text)
    with pytest.raises(DataError, match="not a JSON file: 'annotations' stands twice in one group"):
        read_coco("mine", str(tmp_path / "data.json"), str(tmp_path))
