"""KD.INIT_FROM_TEACHER on the Detectron2 path."""

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed: see its installation guide")

import torch

from kd2.distill import ConfigError
from kd2.engine import dry_run

from ...helpers.d2_tiny import DETECTORS, different, load_config, previous, train, weights, write_pair
from ...helpers.d2_tiny import student_of as plain_student

# As wide as the teacher.
WIDE = {"MODEL": {"FPN": {"OUT_CHANNELS": 32}}}
BODY = "backbone.bottom_up."


@pytest.fixture(params=list(DETECTORS))
def config(request, data, tmp_path):
    """A pair of one architecture whose student has the teacher's width; ``KD.INIT_FROM_TEACHER`` is still empty."""
    return write_pair(tmp_path, data, WIDE, detector=DETECTORS[request.param])


@pytest.fixture
def retinanet(data, tmp_path):
    """The same, a RetinaNet."""
    return write_pair(tmp_path, data, WIDE)


def source_of(config: str) -> dict[str, torch.Tensor]:
    return torch.load(config.replace("student.yaml", "teacher.pth"), weights_only=True)["model"]


def student_of(config: str, *options: str) -> dict[str, torch.Tensor]:
    """The student's weights when training begins."""
    with dry_run(config, list(options)) as found:
        return found.distiller.student.state_dict()


def test_neck_and_head_are_the_teachers_bit_for_bit_and_the_body_is_untouched(config):
    plain, found = student_of(config), student_of(config, "KD.INIT_FROM_TEACHER", "neck+head")
    source = source_of(config)
    assert any(name.startswith("backbone.fpn_") for name in found)
    assert all(torch.equal(x, (plain if name.startswith(BODY) else source)[name]) for name, x in found.items())
    assert not all(torch.equal(plain[name], source[name]) for name in found if name.startswith(BODY))


@pytest.mark.parametrize(("part", "other"), [("neck", "head"), ("head", "neck")])
def test_one_part_alone(retinanet, part, other):
    plain, found, source = (
        student_of(retinanet),
        student_of(retinanet, "KD.INIT_FROM_TEACHER", part),
        source_of(retinanet),
    )
    neck = {name for name in found if name.startswith("backbone.") and not name.startswith(BODY)}
    members = {"neck": neck, "head": {name for name in found if not name.startswith("backbone.")}}
    assert all(torch.equal(found[name], source[name]) for name in members[part])
    assert all(torch.equal(found[name], plain[name]) for name in members[other])


def test_it_comes_after_the_initial_weights(retinanet, tmp_path):
    torch.manual_seed(11)
    initial = plain_student(load_config(retinanet)).state_dict()
    torch.save({"model": initial}, tmp_path / "initial.pth")
    found = student_of(retinanet, "KD.INIT_FROM_TEACHER", "head", "MODEL.WEIGHTS", str(tmp_path / "initial.pth"))
    source = source_of(retinanet)
    assert all(torch.equal(x, (source if name.startswith("head.") else initial)[name]) for name, x in found.items())


def test_training_begins_so_too(retinanet, tmp_path):
    """With a learning rate of 0 the parameters stay what they were."""
    train(retinanet, "KD.INIT_FROM_TEACHER", "head", "SOLVER.MAX_ITER", "1", "SOLVER.BASE_LR", "0.0")
    found, source = weights(tmp_path / "out"), source_of(retinanet)
    assert all(torch.equal(x, source[name]) for name, x in found.items() if name.startswith("head."))


def test_another_width_is_refused_with_names_unless_allowed(retinanets, tmp_path):
    options = ["OUTPUT_DIR", str(tmp_path), "KD.INIT_FROM_TEACHER", "head"]
    with pytest.raises(
        ConfigError, match=r"^KD.INIT_FROM_TEACHER is 'head', but .* in the teacher \(head.cls_subnet.0.weight, "
    ):
        student_of(retinanets, *options)
    found, source = student_of(retinanets, *options, "KD.INIT_FROM_TEACHER_PARTIAL", "True"), source_of(retinanets)
    assert torch.equal(found["head.cls_score.bias"], source["head.cls_score.bias"])


def test_an_unknown_part_is_refused(retinanet):
    with pytest.raises(ConfigError, match=r"^KD.INIT_FROM_TEACHER is 'heads'; did you mean head"):
        student_of(retinanet, "KD.INIT_FROM_TEACHER", "heads")


def test_without_an_active_loss_nothing_is_copied(retinanet, tmp_path):
    options = ["KD.LOSSES.imitation.WEIGHT", "0", "SOLVER.MAX_ITER", "1", "OUTPUT_DIR"]
    train(retinanet, *options, str(tmp_path / "plain"))
    train(retinanet, *options, str(tmp_path / "head"), "KD.INIT_FROM_TEACHER", "head")
    assert different(weights(tmp_path / "head"), weights(tmp_path / "plain")) == []


def test_a_resumed_run_does_not_copy_again(retinanet, tmp_path):
    train(retinanet, "KD.INIT_FROM_TEACHER", "neck+head")
    whole = weights(tmp_path / "out")
    previous(tmp_path / "out")
    train(retinanet, "KD.INIT_FROM_TEACHER", "neck+head", resume=True)
    assert different(weights(tmp_path / "out"), whole) == []
