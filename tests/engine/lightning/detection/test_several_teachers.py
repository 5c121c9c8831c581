"""Two teachers of a torchvision detector from a config; one of them knows other classes."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_detection as tiny

TAPS = ["fpn=backbone", "cls=head.classification_head.cls_logits"]


@pytest.fixture
def write(tmp_path, data, teacher):
    """Writes the config of a student with two losses and two teachers; ``more`` keys of the second one."""

    def written(**more) -> str:
        second = {
            "CONFIG_FILE": str(teacher / "teacher.yaml"), "WEIGHTS": str(teacher / "out" / "model_final.pth"), **more,
        }  # fmt: skip
        losses = {"logits": {"TAP": "cls", "WEIGHT": 0.1}}
        changes = {"KD": {"TAPS": TAPS, "TEACHERS": [second], "LOSSES": losses}, "SOLVER": {"MAX_ITER": 1, "STEPS": []}}
        return tiny.write_config(tmp_path, data, tiny.distilled(teacher, changes))

    return written


def test_a_run_learns_from_both(write, tmp_path):
    runs.train(write(CLASSES=["bar", "dog"], WEIGHT=0.5))
    assert {name.split(".")[0] for name in runs.checkpoint(tmp_path / "out")["adapters"]} == {
        "imitation",
        "imitation_teacher2",
    }


def test_scores_are_compared_for_the_class_that_both_know(write):
    config = runs.distiller(write(CLASSES=["bar", "dog"])).configs["logits_teacher2"]
    assert config.shared.student.tolist() == [1, 3, 5] and config.shared.teacher.tolist() == [0, 2, 4]


def test_the_first_one_may_know_other_classes_too(write):
    config = write(CLASSES=["bar", "dog"])
    classes = runs.distiller(config, "KD.TEACHER.CLASSES", "['cat', 'box']").configs
    assert classes["logits"].shared.teacher.tolist() == [1, 3, 5]
    assert classes["logits_teacher2"].shared.teacher.tolist() == [0, 2, 4]


def test_the_heads_of_both_are_freed_where_no_tap_needs_them(write):
    model = runs.distiller(write(TAPS=["fpn=backbone"]))
    assert not list(model.others[0].teacher.model.head.parameters())
    assert list(model.teacher.model.head.parameters())


def test_names_in_another_number_than_its_classes_are_refused(write):
    with pytest.raises(
        ConfigError, match=r"MODEL.RETINANET.NUM_CLASSES of the teacher is 2, KD.TEACHERS\[0\].CLASSES has"
    ):
        runs.distiller(write(CLASSES=["bar"]))


def test_a_mistyped_key_is_refused(write):
    with pytest.raises(ConfigError, match=r"^KD.TEACHERS\[0\].CLASES: no such key; did you mean CLASSES"):
        runs.distiller(write(CLASES=["bar"]))
