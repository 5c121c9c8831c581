"""torchvision's own segmentation networks as teachers, by name."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch
import torch.nn.functional as F
from torchvision.models import list_models, segmentation

from kd2.distill import ConfigError

from ....helpers import lightning_runs as runs
from ....helpers import tiny_segmentation as tiny
from ....helpers import torchvision_files

QUICK = "lraspp_mobilenet_v3_large"
BUILDERS = [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in list_models(segmentation)]


def config(folder, data, builder: str, weights: str) -> str:
    """A config that learns the scores of a builder of torchvision for two iterations."""
    changes = {
        "KD": {
            "TAPS": ["score=classifier"],
            "TEACHER": {"CONFIG_FILE": f"torchvision://{builder}", "WEIGHTS": weights},
            "LOSSES": {"pixelwise": {"TAP": "score", "WEIGHT": 1.0, "RESIZE": "teacher"}},
        },
        "SOLVER": {"MAX_ITER": 2},
    }
    return tiny.write_config(folder, data, changes)


def test_every_network_of_torchvision_is_tried():
    assert len(BUILDERS) == 6


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_student_learns_from_a_network(builder, tmp_path, semantic_data):
    auxiliary = {} if builder == QUICK else {"aux_loss": True}  # as in the published files
    model = torchvision_files.write(builder, tmp_path / "zoo.pth", num_classes=len(tiny.CLASSES), **auxiliary)
    text = config(tmp_path, semantic_data, builder, str(tmp_path / "zoo.pth"))
    teacher = runs.experiment(text).build_teacher()
    assert (teacher.matched, teacher.classes) == (1, {"stuff": ("KD.TEACHER.WEIGHTS", len(tiny.CLASSES))})
    assert runs.same(teacher.module.state_dict(), model.state_dict()) == []
    runs.train(text)
    assert runs.checkpoint(tmp_path / "out")["iteration"] == 1


def test_an_auxiliary_classifier_keeps_the_classes_of_its_file(tmp_path, semantic_data):
    """A fine-tuning script that exchanges the last layer of the classifier alone leaves 21 in the auxiliary one."""
    builder, path = "deeplabv3_mobilenet_v3_large", str(tmp_path / "own.pth")
    state = torchvision_files.write(builder, tmp_path / "zoo.pth", num_classes=21, aux_loss=True).state_dict()
    for name in ("classifier.4.weight", "classifier.4.bias"):
        state[name] = state[name][: len(tiny.CLASSES)]
    torch.save(state, path)
    teacher = runs.experiment(config(tmp_path, semantic_data, builder, path)).build_teacher()
    assert (teacher.matched, teacher.classes) == (1, {"stuff": ("KD.TEACHER.WEIGHTS", len(tiny.CLASSES))})
    assert len(teacher.module.state_dict()["aux_classifier.4.bias"]) == 21


def test_a_teacher_gives_the_scores_of_torchvisions_own_model(tmp_path, semantic_data):
    """Pixels 0..255, normalized by mean and deviation of the weights' own metadata; torchvision enlarges the scores."""
    model = torchvision_files.write(QUICK, tmp_path / "zoo.pth", num_classes=len(tiny.CLASSES))
    own = runs.experiment(config(tmp_path, semantic_data, QUICK, str(tmp_path / "zoo.pth"))).build_teacher().module
    image = torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)
    seen = segmentation.LRASPP_MobileNet_V3_Large_Weights.DEFAULT.transforms(resize_size=64)(image)
    with torch.no_grad():
        scores = own.eval()(own.normalized([image], (64, 96)))["out"]
        expected = model(seen[None])["out"]
    enlarged = F.interpolate(scores, (64, 96), mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, expected, rtol=1e-4, atol=1e-4)


def test_a_network_of_another_task_is_refused(tmp_path, semantic_data):
    text = "^KD.TEACHER.CONFIG_FILE: 'fcos_resnet50_fpn' of torchvision does no segmentation; "
    with pytest.raises(ConfigError, match=text):
        runs.experiment(config(tmp_path, semantic_data, "fcos_resnet50_fpn", "zoo.pth")).build_teacher()
