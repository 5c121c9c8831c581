"""A student that starts with its teacher's neck and head."""

import pytest
import torch
from torch import Tensor, nn

from kd2.distill import ConfigError
from kd2.engine.init_from_teacher import init_from_teacher

BODY = "backbone.body."


class Detector(nn.Module):
    """Backbone body, pyramid and head, named as in detectors."""

    def __init__(self, body: int, neck: int = 4, convolutions: int = 1):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.body = nn.Conv2d(3, body, 1)
        self.backbone.fpn = nn.Sequential(nn.Conv2d(4, neck, 1), nn.BatchNorm2d(neck))
        self.head = nn.Sequential(*(nn.Conv2d(neck, neck, 1) for _ in range(convolutions)))
        for value in self.state_dict().values():
            value.copy_(torch.rand(value.shape) * 9)


def changed(parts: str, student: nn.Module, teacher: nn.Module, partial: bool = False) -> set[str]:
    """Inherit; the first two levels of the names that changed. What was reported as copied is equal bit for bit."""
    before = {name: value.clone() for name, value in student.state_dict().items()}
    found = init_from_teacher(student, teacher, parts, BODY, partial)
    after, source = student.state_dict(), teacher.state_dict()
    assert all(torch.equal(after[name], source[name]) for name in found.copied)
    return {".".join(name.split(".")[:2]) for name in after if not torch.equal(before[name], after[name])}


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ("neck", {"backbone.fpn"}),
        ("head", {"head.0"}),
        ("neck+head", {"backbone.fpn", "head.0"}),
    ],
)
def test_parts_are_copied_and_nothing_else(parts, expected):
    assert changed(parts, Detector(2), Detector(8)) == expected


def test_the_body_stays_even_when_it_would_fit():
    assert changed("neck+head", Detector(2), Detector(2)) == {"backbone.fpn", "head.0"}


def test_buffers_are_copied_too():
    student, teacher = Detector(2), Detector(8)
    init_from_teacher(student, teacher, "neck", BODY, partial=False)
    assert torch.equal(student.backbone.fpn[1].running_var, teacher.backbone.fpn[1].running_var)


def test_a_backbone_without_a_pyramid_is_no_neck():
    student, teacher = (nn.ModuleDict({"backbone": nn.Conv2d(3, 2, 1), "head": nn.Conv2d(2, 2, 1)}) for _ in range(2))
    assert changed("neck+head", student, teacher) == {"head.weight", "head.bias"}
    with pytest.raises(
        ConfigError, match="^KD.INIT_FROM_TEACHER is 'neck', but 0 tensors are on one side only .* 0 agree$"
    ):
        init_from_teacher(student, teacher, "neck", BODY, partial=True)


def test_the_copy_shares_no_memory_with_the_teacher():
    student, teacher = Detector(2), Detector(8)
    init_from_teacher(student, teacher, "neck+head", BODY, partial=False)
    nn.init.zeros_(teacher.head[0].weight)
    assert student.head[0].weight.any()


def test_the_student_stays_trainable_and_keeps_its_precision():
    student, teacher = Detector(2).double(), Detector(8).requires_grad_(False)
    init_from_teacher(student, teacher, "neck+head", BODY, partial=False)
    assert all(p.requires_grad and p.dtype == torch.float64 for p in student.parameters())


@pytest.mark.parametrize(
    ("student", "teacher", "names"),
    [
        (Detector(2, neck=4), Detector(2, neck=5), "backbone.fpn.0.weight, backbone.fpn.0.bias, .*, ..."),
        (Detector(2, convolutions=2), Detector(2), "head.1.weight, head.1.bias"),
        (Detector(2), Detector(2, convolutions=2), "head.1.weight, head.1.bias"),
    ],
    ids=["another shape", "missing in the teacher", "missing in the student"],
)
def test_a_partial_match_is_refused_with_names_and_copies_nothing(student, teacher, names):
    before = state_of(student)
    with pytest.raises(ConfigError, match=rf"of another shape in the teacher \({names}\), [0-9]+ agree"):
        init_from_teacher(student, teacher, "neck+head", BODY, partial=False)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_a_refused_partial_match_says_how_to_allow_it():
    with pytest.raises(ConfigError, match="9 agree; KD.INIT_FROM_TEACHER_PARTIAL True leaves them out$"):
        init_from_teacher(Detector(2), Detector(2, convolutions=2), "neck+head", BODY, partial=False)


def test_a_partial_match_can_be_allowed():
    student = Detector(2, convolutions=2)
    last = student.head[1].weight.clone()
    assert changed("neck+head", student, Detector(8), partial=True) == {"backbone.fpn", "head.0"}
    assert torch.equal(student.head[1].weight, last)


def test_no_match_at_all_is_refused_even_then():
    with pytest.raises(ConfigError, match="4 tensors are on one side only .* 0 agree$"):
        init_from_teacher(
            nn.ModuleDict({"a": nn.Conv2d(1, 1, 1)}), nn.ModuleDict({"b": nn.Conv2d(1, 1, 1)}), "head", BODY, True
        )


@pytest.mark.parametrize(
    ("parts", "hint"), [("nek", "did you mean neck"), ("head+neck", "did you mean neck"), ("all", "choices")]
)
def test_unknown_parts_are_refused(parts, hint):
    with pytest.raises(ConfigError, match=rf"^KD.INIT_FROM_TEACHER is '{parts.replace('+', '.')}'; {hint}"):
        init_from_teacher(Detector(2), Detector(2), parts, BODY, partial=False)


def test_the_report_counts_and_names():
    text = init_from_teacher(Detector(2, convolutions=2), Detector(2), "neck+head", BODY, partial=True).text()
    assert text == (
        "9 tensors of the teacher copied (backbone.fpn.0.weight, backbone.fpn.0.bias, backbone.fpn.1.weight, ...), "
        "2 left out (head.1.weight, head.1.bias)"
    )
