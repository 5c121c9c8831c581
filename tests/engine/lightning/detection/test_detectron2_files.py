"""A file of Detectron2's zoo gives the same model with torchvision as with Detectron2: maps, boxes, scores, masks."""

from argparse import Namespace

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")
pytest.importorskip("detectron2", reason="needs detectron2")

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from torch import Tensor, nn

from kd2.engine.detectron2.zoo import config_path

from ....helpers import zoo_files
from ....helpers.zoo_models import torchvision_detector

SIZE = (160, 224)  # not a multiple of the strides of P6 and P7
IN_TIME = [
    ("COCO-Detection/retinanet_R_50_FPN_1x", "retinanet", "R_50"),
    ("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x", "mask_rcnn", "R_50"),
]
SLOW = [
    (zoo_files.RETINANET, "retinanet", "R_101"),
    ("COCO-Detection/faster_rcnn_R_50_FPN_1x", "faster_rcnn", "R_50"),
    ("COCO-Detection/faster_rcnn_R_101_FPN_3x", "faster_rcnn", "R_101"),
    ("COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x", "faster_rcnn", "X_101"),
    ("COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x", "mask_rcnn", "R_101"),
    ("COCO-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_3x", "mask_rcnn", "X_101"),
]
CASES = [*IN_TIME, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)]


def detectron2_model(name: str, state: dict[str, Tensor]) -> nn.Module:
    """The zoo's model as Detectron2 itself builds and fills it."""
    cfg = get_cfg()
    cfg.merge_from_file(config_path(f"{name}.yaml", "the test"))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case[0].rpartition("/")[2])
def pair(request, tmp_path_factory) -> Namespace:
    """Both models of one file, and what each makes of one image."""
    name, family, body = request.param
    state = zoo_files.detector(family, body)
    path = tmp_path_factory.mktemp("zoo") / "model_final.pkl"
    zoo_files.write(state, path)
    theirs = detectron2_model(name, state)
    ours, matched = torchvision_detector(f"{name}.yaml", path, "INPUT.MIN_SIZE_TEST", str(min(SIZE)))
    image = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        maps = theirs.backbone(theirs.preprocess_image([{"image": image}]).tensor)
        own_maps = ours.backbone(ours.transform([image / 255])[0].tensors)
        found = theirs([{"image": image, "height": SIZE[0], "width": SIZE[1]}])[0]["instances"]
        own_found = ours([image / 255])[0]
    return Namespace(
        theirs=theirs, ours=ours, matched=matched, maps=maps, own_maps=own_maps, found=found, own_found=own_found
    )


def by_ratio(levels: list[Tensor], anchors: int, sizes: int) -> Tensor:
    """Detectron2's outputs of all levels (1, A x K, H, W) as (H x W x A, K), anchors by ratio, then size."""
    flat = []
    for x in levels:
        cells = x.reshape(sizes, anchors // sizes, -1, *x.shape[2:]).permute(3, 4, 1, 0, 2)
        flat.append(cells.reshape(-1, cells.shape[-1]))
    return torch.cat(flat)


def close(a: Tensor, b: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def test_every_tensor_is_matched(pair):
    assert pair.matched == 1


def test_the_maps_of_the_pyramid_are_equal(pair):
    for theirs, ours in zip(pair.maps.values(), pair.own_maps.values(), strict=True):
        close(ours, theirs, 1e-4)


def test_the_maps_of_the_heads_are_equal(pair):
    with torch.no_grad():
        if hasattr(pair.theirs, "head"):
            theirs = pair.theirs.head(list(pair.maps.values()))
            ours = pair.ours.head(list(pair.own_maps.values()))
            ours, anchors, sizes = [ours["cls_logits"][0], ours["bbox_regression"][0]], 9, 3
        else:
            theirs = pair.theirs.proposal_generator.rpn_head(list(pair.maps.values()))
            ours = [by_ratio(x, 3, 1) for x in pair.ours.rpn.head(list(pair.own_maps.values()))]
            anchors, sizes = 3, 1
    for a, b in zip(theirs, ours, strict=True):
        close(b, by_ratio(a, anchors, sizes), 1e-4)


def test_the_anchors_are_equal(pair):
    retinanet = hasattr(pair.theirs, "head")
    theirs = (pair.theirs if retinanet else pair.theirs.proposal_generator).anchor_generator(list(pair.maps.values()))
    generator = pair.ours.anchor_generator if retinanet else pair.ours.rpn.anchor_generator
    images = Namespace(image_sizes=[SIZE], tensors=torch.zeros(1, 3, *SIZE))
    ours = generator(images, list(pair.own_maps.values()))[0]
    sizes = 3 if retinanet else 1
    by_cell = [x.tensor.reshape(-1, sizes, 3, 4).transpose(1, 2).reshape(-1, 4) for x in theirs]
    close(ours, torch.cat(by_cell), 1e-4)


def test_there_are_as_many_objects(pair):
    assert len(pair.own_found["scores"]) == len(pair.found) > 20


def test_classes_scores_and_boxes_of_the_objects_are_equal(pair):
    first = 0 if hasattr(pair.theirs, "head") else 1
    assert torch.equal(pair.own_found["labels"] - first, pair.found.pred_classes)
    close(pair.own_found["scores"], pair.found.scores, 1e-3)
    close(pair.own_found["boxes"], pair.found.pred_boxes.tensor, 1e-3)


def test_masks_of_the_objects_are_equal(pair):
    if not pair.found.has("pred_masks"):
        pytest.skip("finds no masks")
    assert pair.found.pred_masks.any()
    assert (pair.found.pred_masks != (pair.own_found["masks"][:, 0] > 0.5)).float().mean() < 1e-3


def test_a_cascade_gives_its_pyramid_and_its_first_stage(tmp_path):
    name, state = "Misc/cascade_mask_rcnn_R_50_FPN_3x", zoo_files.detector("cascade_mask_rcnn", "R_50")
    zoo_files.write(state, tmp_path / "model_final.pkl")
    theirs = detectron2_model(name, state)
    ours, matched = torchvision_detector(f"{name}.yaml", tmp_path / "model_final.pkl")
    image = torch.randint(0, 256, (3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        maps = theirs.backbone(theirs.preprocess_image([{"image": image}]).tensor)
        boxes = torch.tensor([[3.0, 5.0, 90.0, 60.0], [20.0, 8.0, 24.0, 150.0]])
        regions = ours.roi_heads.box_roi_pool(dict(zip("0123", maps.values())), [boxes], [SIZE])
        scores, deltas = ours.roi_heads.box_predictor(ours.roi_heads.box_head(regions))
        heads = theirs.roi_heads
        expected, agnostic = heads.box_predictor[0](heads.box_head[0](regions))
        for a, b in zip(maps.values(), ours.backbone(theirs.preprocess_image([{"image": image}]).tensor).values()):
            close(b, a, 1e-4)
    assert matched == 1
    close(scores, expected.roll(1, 1), 1e-4)
    close(deltas[:, 4:], agnostic.repeat(1, 80), 1e-4)
