"""KD.INIT_FROM_TEACHER on the torchvision path."""

import logging

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2 import engine
from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

# As wide as the teacher.
WIDE = {"MODEL": {"FPN": {"OUT_CHANNELS": 24}}}


@pytest.fixture
def config(tmp_path, data, teacher):
    """A config of the teacher's architecture; ``KD.INIT_FROM_TEACHER`` is still empty."""
    return tiny.write_config(tmp_path, data, tiny.distilled(teacher, WIDE))


@pytest.fixture
def source(teacher):
    """The teacher's weights."""
    return runs.weights(teacher / "out")


def student_of(config: str, *options: str) -> dict[str, torch.Tensor]:
    return runs.distiller(config, *options).student.state_dict()


def drawn(config: str, *options: str) -> dict[str, torch.Tensor]:
    """The student's weights as SEED draws them."""
    return runs.experiment(config, *options).build_student().module.state_dict()


@pytest.mark.parametrize(
    ("parts", "prefixes"),
    [("neck", ("backbone.fpn.",)), ("head", ("head.",)), ("neck+head", ("backbone.fpn.", "head."))],
)
def test_parts_are_the_teachers_bit_for_bit_and_the_rest_is_untouched(config, source, parts, prefixes):
    fresh, found = drawn(config), student_of(config, "KD.INIT_FROM_TEACHER", parts)
    copied = {name for name in found if name.startswith(prefixes)}
    assert copied and any(name.startswith("backbone.body.") for name in found)
    assert all(torch.equal(x, source[name] if name in copied else fresh[name]) for name, x in found.items())


def test_it_comes_after_the_initial_weights(config, source, tmp_path):
    torch.save({"model": drawn(config, "SEED", "11")}, tmp_path / "initial.pth")
    initial = torch.load(tmp_path / "initial.pth", weights_only=True)["model"]
    found = student_of(config, "KD.INIT_FROM_TEACHER", "head", "MODEL.WEIGHTS", str(tmp_path / "initial.pth"))
    assert all(torch.equal(x, (source if name.startswith("head.") else initial)[name]) for name, x in found.items())


def test_what_was_copied_is_logged(config, caplog):
    caplog.set_level(logging.INFO)
    student_of(config, "KD.INIT_FROM_TEACHER", "head")
    assert "KD.INIT_FROM_TEACHER head: 8 tensors of the teacher copied (head.classification_head." in caplog.text


def test_a_dry_run_copies_too(config, source):
    with engine.dry_run(config, ["KD.INIT_FROM_TEACHER", "head"]) as found:
        state = found.distiller.student.state_dict()
    assert all(torch.equal(x, source[name]) for name, x in state.items() if name.startswith("head."))


def test_another_width_is_refused_with_names(tmp_path, data, teacher):
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    text = r"^KD.INIT_FROM_TEACHER is 'neck\+head', but .* in the teacher \(backbone.fpn.inner_blocks.0.0.weight, "
    with pytest.raises(ConfigError, match=text):
        student_of(config, "KD.INIT_FROM_TEACHER", "neck+head")


def test_a_partial_match_can_be_allowed(tmp_path, data, teacher, source):
    config = tiny.write_config(tmp_path, data, tiny.distilled(teacher))
    found = student_of(config, "KD.INIT_FROM_TEACHER", "head", "KD.INIT_FROM_TEACHER_PARTIAL", "True")
    name = "head.classification_head.cls_logits.bias"
    assert torch.equal(found[name], source[name])


def test_an_unknown_part_is_refused(config):
    with pytest.raises(ConfigError, match=r"^KD.INIT_FROM_TEACHER is 'heads'; did you mean head"):
        student_of(config, "KD.INIT_FROM_TEACHER", "heads")


def test_without_an_active_loss_nothing_is_copied(config):
    fresh = drawn(config)
    assert runs.same(student_of(config, "KD.INIT_FROM_TEACHER", "head", "KD.LOSSES.imitation.WEIGHT", "0"), fresh) == []


def test_a_resumed_run_does_not_copy_again(config, tmp_path):
    runs.train(config, "KD.INIT_FROM_TEACHER", "neck+head")
    whole = runs.weights(tmp_path / "out")
    (tmp_path / "out" / "last_checkpoint").write_text("model_0000003.pth")
    runs.train(config, "KD.INIT_FROM_TEACHER", "neck+head", resume=True)
    assert runs.same(runs.weights(tmp_path / "out"), whole) == []
