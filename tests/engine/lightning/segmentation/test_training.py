"""Training, evaluating and resuming segmentation networks."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_segmentation as tiny

TESTED = {"DATASETS": {"TEST": ["drawn"]}}
UNLABELED = {"KD": {"UNLABELED": {"DATASETS": ["more"], "IMS_PER_BATCH": 1}}}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, semantic_data, psp_teacher):
    """The folder of a distilled run of 4 iterations, and its metrics."""
    folder = tmp_path_factory.mktemp("finished")
    changes = runs.merged(tiny.distilled(psp_teacher, TESTED), UNLABELED)
    changes["KD"]["LOSSES"]["holistic"] = {"TAP": "score", "WEIGHT": 0.1, "ENLARGE": 11, "WIDTH": 4}
    return folder, runs.train(tiny.write_config(folder, semantic_data, changes))


def test_metrics_carry_detectron2s_names(finished):
    kinds = [f"{kind}-{name}" for kind in ("IoU", "ACC") for name in tiny.CLASSES]
    assert set(finished[1]) == {f"sem_seg/{name}" for name in ["mIoU", "fwIoU", "mACC", "pACC", *kinds]}


def test_the_final_checkpoint_scores_the_same(finished):
    folder, metrics = finished
    weights = str(folder / "out" / "model_final.pth")
    again = runs.train(str(folder / "student.yaml"), "MODEL.WEIGHTS", weights, eval_only=True)
    assert again == pytest.approx(metrics, rel=0, abs=0, nan_ok=True)


def test_the_student_is_saved_under_its_own_names(finished):
    model = torch.load(finished[0] / "out" / "model_final.pth", weights_only=True)["model"]
    assert {name.split(".")[0] for name in model} == {"backbone", "classifier", "aux_classifier"}


def test_a_resumed_run_equals_the_whole_one(finished, tmp_path):
    """Crops, flips, dropout, the unlabeled stream and the critic go on where they were."""
    folder = finished[0]
    runs.resumed(str(folder / "student.yaml"), folder / "out", 2, tmp_path / "out")
    found, expected = runs.checkpoint(tmp_path / "out"), runs.checkpoint(folder / "out")
    assert runs.different(found, expected) == [".kd2.config"]  # OUTPUT_DIR


def test_weight_0_and_share_0_are_plain_training_bit_for_bit(tmp_path, semantic_data, psp_teacher):
    runs.train(tiny.write_config(tmp_path, semantic_data))
    zero = {"KD": {"LOSSES": {"pixelwise": {"WEIGHT": 0.0}, "pairwise": {"WEIGHT": None, "SHARE": 0.0}}}}
    changes = runs.merged(tiny.distilled(psp_teacher, zero), {"OUTPUT_DIR": str(tmp_path / "zero")})
    runs.train(tiny.write_config(tmp_path, semantic_data, changes, "zero"))
    assert runs.same(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "zero")) == []


def test_evaluation_on_the_way_changes_no_weight(tmp_path, semantic_data):
    runs.train(tiny.write_config(tmp_path, semantic_data))
    often = {"TEST": {"EVAL_PERIOD": 1}, "INPUT": {"MIN_SIZE_TEST": 32}, "OUTPUT_DIR": str(tmp_path / "often")} | TESTED
    runs.train(tiny.write_config(tmp_path, semantic_data, often, "often"))
    assert runs.same(runs.weights(tmp_path / "out"), runs.weights(tmp_path / "often")) == []


SMALL = {"BACKBONE": None, "SEM_SEG_HEAD": {"CONVS_DIM": None}, "ESPNET": {"LEVEL2_BLOCKS": 1, "LEVEL3_BLOCKS": 1}}
OTHERS = {
    "ESPNetC": SMALL,
    "ESPNet": SMALL,
    "LRASPP": {},
    "SemSegFPN": {"BACKBONE": {"ARGS": {"output_stride": 32}}, "FPN": {"OUT_CHANNELS": 16}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_students_learn_from_a_pspnet(name, tmp_path, semantic_data, psp_teacher):
    model = runs.merged(OTHERS[name], {"META_ARCHITECTURE": name, "SEM_SEG_HEAD": {"AUX_WEIGHT": 0.0}})
    changes = runs.merged(tiny.distilled(psp_teacher), {"MODEL": model, "SOLVER": {"MAX_ITER": 1}})
    changes["KD"]["STUDENT"]["TAPS"] = ["score=classifier"]
    changes["KD"]["TEACHER"]["TAPS"] = ["score=classifier"]
    changes["KD"]["LOSSES"] = {"pixelwise": {"TAP": "score", "WEIGHT": 1.0, "RESIZE": "teacher"}}
    runs.train(tiny.write_config(tmp_path, semantic_data, changes))
    assert all(x.isfinite().all() for x in runs.weights(tmp_path / "out").values())


def test_the_head_is_copied_from_a_teacher_of_the_same_architecture(tmp_path, semantic_data, psp_teacher):
    same = {
        "MODEL": {"SEM_SEG_HEAD": {"CONVS_DIM": 24}},
        "KD": {"INIT_FROM_TEACHER": "head"},
        "SOLVER": {"MAX_ITER": 1, "BASE_LR": 0.0},
    }
    runs.train(tiny.write_config(tmp_path, semantic_data, tiny.distilled(psp_teacher, same)))
    own, teacher = runs.weights(tmp_path / "out"), runs.weights(psp_teacher / "out")
    heads = [name for name in teacher if name.startswith(("classifier", "aux_classifier")) and "running" not in name]
    heads = [name for name in heads if not name.endswith("num_batches_tracked")]
    assert heads and all(torch.equal(own[name], teacher[name]) for name in heads)
    assert not torch.equal(own["backbone.network.conv1.0.weight"], teacher["backbone.network.conv1.0.weight"])


def test_a_head_of_another_width_is_not_copied(tmp_path, semantic_data, psp_teacher):
    changes = tiny.distilled(psp_teacher, {"KD": {"INIT_FROM_TEACHER": "head"}})
    with pytest.raises(ConfigError, match="^KD.INIT_FROM_TEACHER is 'head', but .* of another shape in the teacher"):
        runs.train(tiny.write_config(tmp_path, semantic_data, changes))
