"""The teacher's precision, compilation and parts, apart from the student's."""

import pytest
import torch

from kd2.distill import ConfigError

from ..helpers.toys import batch, distiller

BLOCKS = {"imitation": {"WEIGHT": 1.0}}


def blank(teacher):
    return lambda: teacher.model({"image": torch.zeros(1, 3, 32, 48)})


@pytest.mark.parametrize(("precision", "expected"), [(torch.bfloat16, torch.bfloat16), (torch.float32, torch.float32)])
def test_its_precision_is_not_the_students(precision, expected):
    model, seen = distiller(BLOCKS), []
    model.teacher.precision = precision
    model.teacher.model.backbone.stem[0].register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    model.student.backbone.stem[0].register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.float32):
        model(batch())
    other = torch.bfloat16 if precision == torch.float32 else torch.float32
    assert seen == [expected, other]


def test_its_maps_differ_by_the_roundings_of_bfloat16():
    model = distiller(BLOCKS)
    plain = model.teacher_features(batch())["fpn"]
    model.teacher.precision = torch.bfloat16
    for found, expected in zip(model.teacher_features(batch())["fpn"], plain):
        assert not torch.equal(found.float(), expected)
        torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


def test_parts_that_no_tap_needs_are_freed():
    model = distiller(BLOCKS)
    before = model(batch())["loss_imitation"]
    assert model.teacher.free_unused(blank(model.teacher)) == ["head"]
    assert not list(model.teacher.model.head.parameters())
    assert torch.equal(model.teacher_features(batch())["fpn"][0], distiller(BLOCKS).teacher_features(batch())["fpn"][0])
    assert before.isfinite()


def test_a_part_that_is_tapped_stays():
    model = distiller({"logits": {"TAP": "scores", "WEIGHT": 1.0}}, "scores=head")
    assert model.teacher.free_unused(blank(model.teacher)) == []


def test_a_part_that_the_model_looks_into_stays():
    model = distiller(BLOCKS)
    teacher = model.teacher.model
    teacher.register_forward_pre_hook(lambda module, _inputs: bool(module.head.weight.sum()) and None)  # never called
    head = teacher.head
    assert model.teacher.free_unused(blank(model.teacher)) == [] and teacher.head is head


def test_what_is_compiled_gives_the_same_maps(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda forward: compiled.append(forward.__self__) or forward)
    model = distiller(BLOCKS, tap="fpn=backbone:p3,p4")
    model.teacher.compile()
    assert compiled == [model.teacher.model.backbone]
    assert model(batch())["loss_imitation"].isfinite()


def test_a_tap_inside_what_is_compiled_is_refused():
    model = distiller({"mimic": {"TAP": "stem", "WEIGHT": 1.0}}, "stem=backbone.stem")
    with pytest.raises(ConfigError, match="the tap stem is backbone.stem, inside of what is compiled$"):
        model.teacher.compile()
