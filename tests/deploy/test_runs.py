"""Export of runs that kept an average, had several teachers, or have not ended."""

import shutil

import pytest
import torch

pytest.importorskip("torchvision")
pytest.importorskip("lightning")

import kd2
from kd2 import cli_deploy

from ..helpers import tiny_classification
from ..helpers.contents import different
from ..helpers.lightning_runs import checkpoint, merged, train

AVERAGED = {"MODEL": {"EMA": {"ENABLED": True, "DECAY": 0.5}}, "DATASETS": {"TEST": ["tiny_test"]}}


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """The folder of a run with a moving average and two teachers: checkpoints after 3 and 6 steps."""
    folder = tmp_path_factory.mktemp("distilled")
    tiny_classification.write_data(folder / "data")
    for name in ("one", "two"):
        (folder / name).mkdir()
        train(tiny_classification.write_config(folder / name, folder / "data", name="teacher"))
    further = {"CONFIG_FILE": str(folder / "two" / "teacher.yaml"), "WEIGHTS": str(folder / "two/out/model_final.pth")}
    changes = merged(tiny_classification.distilled(folder / "one", AVERAGED), {"KD": {"TEACHERS": [further]}})
    train(tiny_classification.write_config(folder, folder / "data", changes))
    return folder / "out"


@pytest.mark.parametrize("step", [None, 3])
def test_the_average_of_the_final_or_another_checkpoint_is_exported(distilled, step, tmp_path):
    content, path = checkpoint(distilled, step), str(tmp_path / "student.pt")
    weights = [] if step is None else ["--weights", str(distilled / f"model_{step:07d}.pth")]
    words = ["--run", str(distilled), "--format", "torchscript", "--output", path, *weights]
    assert cli_deploy.run_export(cli_deploy.export_parser().parse_args(words)) == 0
    held = {name.removeprefix("student."): x for name, x in torch.jit.load(path).state_dict().items()}
    assert different(held, content["model"]) == []
    assert different(held, content["kd2"]["raw_model"]) != []


def test_a_run_that_has_not_ended_gives_its_last_checkpoint(distilled, tmp_path):
    unfinished = tmp_path / "run"
    unfinished.mkdir()
    for name in ("config.yaml", "model_0000003.pth"):
        shutil.copy(distilled / name, unfinished)
    (unfinished / "last_checkpoint").write_text("model_0000003.pth")
    held = kd2.load(str(unfinished)).student.state_dict()
    assert different(held, checkpoint(distilled, 3)["model"]) == []
