"""Reading COCO instances files."""

import json

import pytest

from kd2.data.detection.coco import read_coco
from kd2.distill import DataError


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


@pytest.fixture
def read(tmp_path):
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for name in ("1.jpg", "2.jpg", "deep/3.jpg"):
        (tmp_path / "images" / name).touch()

    def read_content(what, images: str = "images"):
        (tmp_path / "data.json").write_text(what if isinstance(what, str) else json.dumps(what))
        return read_coco("mine", str(tmp_path / "data.json"), str(tmp_path / images))

    return read_content


def test_a_record_has_the_standard_keys(read, tmp_path):
    record = read(content((1, 2, 10, 10))).records[0]
    assert record == {
        "file_name": str(tmp_path / "images" / "1.jpg"),
        "height": 30,
        "width": 40,
        "image_id": 1,
        "annotations": [{"bbox": [1, 2, 10, 10], "category_id": 1, "iscrowd": 0}],
    }


def test_classes_come_in_the_order_of_their_ids(read):
    data = read(content((1, 2, 10, 10)))
    assert (data.classes, data.category_ids) == (("cat", "dog"), (2, 5))


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


@pytest.mark.parametrize(
    "segmentation",
    [[[1, 2, 11, 2, 11, 12]], {"size": [30, 40], "counts": [5, 5, 1190]}, {"size": [30, 40], "counts": "abc"}],
)
def test_polygons_and_run_lengths_are_kept(read, segmentation):
    assert read(changed(segmentation=segmentation)).records[0]["annotations"][0]["segmentation"] == segmentation


def test_an_empty_segmentation_is_none(read):
    assert "segmentation" not in read(changed(segmentation=[])).records[0]["annotations"][0]


def test_the_files_area_is_kept(read):
    assert read(changed(area=55.5)).records[0]["annotations"][0]["area"] == 55.5


def test_a_box_on_the_border_is_kept(read):
    assert read(content((0, 0, 40, 30))).records[0]["annotations"][0]["bbox"] == [0, 0, 40, 30]


@pytest.mark.parametrize(
    ("box", "cut"),
    [
        ((-1, 3, 10, 10), [0, 3, 9, 10]),
        ((3, -0.5, 10, 10), [3, 0, 10, 9.5]),
        ((31, 3, 10, 10), [31, 3, 9, 10]),
        ((3, 20.5, 10, 10), [3, 20.5, 10, 9.5]),
    ],
)
def test_a_box_a_pixel_outside_is_cut_to_the_image(read, box, cut):
    assert read(content(box)).records[0]["annotations"][0]["bbox"] == cut


@pytest.mark.parametrize("box", [(-2, 3, 10, 10), (3, -2, 10, 10), (32, 3, 10, 10), (3, 22, 10, 10), (100, 100, 5, 5)])
def test_a_box_outside_the_image_is_refused(read, box):
    text = r"data.json: annotation 7: box \[.*\] \(x, y, width, height\) leaves the image .*1.jpg of 40 x 30 pixels$"
    with pytest.raises(DataError, match=text):
        read(content(box))


@pytest.mark.parametrize("box", [(3, 3, 0, 5), (3, 3, 5, 0), (9, 9, -4, 4), (40, 3, 1, 5), (3, 3, float("nan"), 5)])
def test_a_box_without_area_is_refused(read, box):
    text = r"data.json: annotation 7: box \[.*\] \(x, y, width, height\) has no area in .*1.jpg$"
    with pytest.raises(DataError, match=text):
        read(content(box))


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "wide"], [1, 2, 3, [4]], 5])
def test_a_box_that_is_not_four_numbers_is_refused(read, box):
    with pytest.raises(DataError, match=r"annotation 7: box .* is not four numbers \(x, y, width, height\)$"):
        read(changed(bbox=box))


def test_an_unknown_category_is_refused(read):
    text = r"data.json: annotation 7: category_id 3 is not among the categories \[2, 5\]$"
    with pytest.raises(DataError, match=text):
        read(changed(category_id=3))


def test_an_unknown_image_is_refused(read):
    with pytest.raises(DataError, match=r"data.json: annotation 7: there is no image 9$"):
        read(changed(image_id=9))


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox"])
def test_an_annotation_that_lacks_an_entry_is_refused(read, key):
    with pytest.raises(DataError, match=f"data.json: annotation 7 has no '{key}'$"):
        read(changed(**{key: None}))


@pytest.mark.parametrize("key", ["id", "file_name", "width", "height"])
def test_an_image_that_lacks_an_entry_is_refused(read, key):
    image = {"id": 1, "file_name": "1.jpg", "width": 40, "height": 30}
    del image[key]
    with pytest.raises(DataError, match=f"data.json: image .* has no '{key}'$"):
        read(content((1, 2, 3, 4), images=[image]))


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


def test_no_annotations_at_all_are_refused(read):
    with pytest.raises(DataError, match="data.json: no image has annotations$"):
        read(content())


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
