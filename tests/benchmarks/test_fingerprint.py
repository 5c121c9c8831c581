"""Does distillation pay: what is in the hash of a run."""

from benchmarks.proof.fingerprint import ROOT, fingerprint
from kd2.losses.blocks import complete_losses


def hash_of(**options):
    return fingerprint(str(ROOT / "configs/torchvision/bccd/imitation.yaml"), {"KD.LOSSES": {}} | options)


def taught(**options):
    """The hash of a run with a teacher."""
    return hash_of(**{"KD.LOSSES": {"mgd": {}}, "KD.TEACHER.WEIGHTS": str(ROOT / "setup.py")} | options)


def with_second(**block):
    """The hash of a run with two teachers."""
    own = {"CONFIG_FILE": str(ROOT / "configs/torchvision/bccd/teacher.yaml"), "WEIGHTS": str(ROOT / "setup.py")}
    return taught(**{"KD.TEACHERS": [own | block]})


def test_the_effective_share_is_in_the_hash():
    share = complete_losses({"mgd": {}})["mgd"]["SHARE"]
    assert taught() == taught(**{"KD.LOSSES": {"mgd": {"SHARE": share}}})
    assert taught() != taught(**{"KD.LOSSES": {"mgd": {"SHARE": share / 2}}})


def test_where_a_run_lies_and_what_it_scores_is_not_in_the_hash():
    moved = {"OUTPUT_DIR": "x", "SEED": 7, "DATASETS.TEST": ["y"], "DATASETS.CUSTOM.y": {"JSON": "y", "IMAGES": "y"}}
    assert hash_of() == hash_of(**moved) != hash_of(**{"SOLVER.BASE_LR": 0.5})


def test_a_student_alone_is_one_run_whatever_is_tapped_beside_it():
    assert hash_of() == hash_of(**{"KD.STUDENT.TAPS": ["fpn=backbone:0"], "KD.TEACHER.TAPS": ["fpn=backbone:1"]})


def test_the_teacher_counts_by_its_content_for_those_that_it_teaches(tmp_path):
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for file, text in ((one, "1"), (same, "1"), (other, "2")):
        file.write_text(text)
    found = [taught(**{"KD.TEACHER.WEIGHTS": str(x)}) for x in (one, same, other)]
    assert found[0] == found[1] != found[2]
    assert hash_of(**{"KD.TEACHER.WEIGHTS": str(one)}) == hash_of(**{"KD.TEACHER.WEIGHTS": str(other)})


def test_how_a_teacher_is_tapped_and_run_is_in_the_hash():
    settings = [
        {},
        {"TAPS": ["fpn=backbone:0"]},
        {"TAPS": ["fpn=backbone:1"]},
        {"BATCH_STATISTICS": True},
        {"PRECISION": "bf16"},
        {"COMPILE": True},
        {"ALLOW_PARTIAL": True},
        {"CLASSES": ["a", "b"]},
    ]
    found = [taught(**{f"KD.TEACHER.{key}": x for key, x in setting.items()}) for setting in settings]
    assert len(set(found)) == len(settings)


def test_how_a_second_teacher_is_tapped_and_weighed_is_in_the_hash():
    settings = [{}, {"WEIGHT": 0.25}, {"WEIGHT": 0.5}, {"TAPS": ["fpn=backbone:0"]}, {"CLASSES": ["a"]}]
    assert len({with_second(**setting) for setting in settings} | {taught()}) == len(settings) + 1


def test_defaults_of_a_teacher_that_are_written_out_change_no_hash():
    defaults = {"TAPS": [], "BATCH_STATISTICS": False, "PRECISION": "", "CHANNELS_LAST": False}
    assert taught() == taught(**{f"KD.TEACHER.{key}": x for key, x in defaults.items()})
    assert with_second() == with_second(WEIGHT=1.0, TAPS=[], OPTS=[])


def test_the_image_size_of_a_classifying_teacher_is_in_the_hash():
    file, weights = str(ROOT / "configs/timm/cifar10/labels.yaml"), str(ROOT / "setup.py")
    options = {"KD.LOSSES": {"logits": {"TAP": "logits"}}, "KD.TEACHER.CONFIG_FILE": file}
    options["KD.TEACHER.WEIGHTS"] = weights
    sizes = [fingerprint(file, options | {"KD.TEACHER.OPTS": x}) for x in ([], *(["INPUT.SIZE", x] for x in (32, 48)))]
    assert sizes[0] == sizes[1] != sizes[2]
