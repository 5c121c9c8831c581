import json
import os
import sys

import numpy as np
import pytest
import torch

import kd2
from kd2 import cli, cli_deploy
from kd2.config import read
from kd2.deploy import export, formats
from kd2.distill import ConfigError
from kd2.engine import flow
from kd2.engine.lightning.run import experiment_of

ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".pt"}


def exported(run, form, path, *words):
    """The exit code of the command."""
    for name in formats.FORMATS[form].packages:
        pytest.importorskip(name)
    words = ["--run", run, "--format", form, "--output", str(path), *words]
    return cli_deploy.run_export(cli_deploy.export_parser().parse_args(words))


@pytest.mark.parametrize("form", ENDINGS)
def test_a_file_finds_what_pytorch_finds(run, form, tmp_path, capsys):
    assert exported(run, form, tmp_path / f"student{ENDINGS[form]}") == 0
    assert "largest difference from PyTorch" in capsys.readouterr().out
    ours, file = kd2.load(run), kd2.load(str(tmp_path / f"student{ENDINGS[form]}"))
    assert file.classes == ours.classes and file.facts == ours.facts
    assert os.listdir(run).count("student.onnx") == 0


def test_scores_of_pytorch_are_those_of_the_runs_own_evaluation(detector, tmp_path):
    from ..helpers.lightning_runs import arguments

    job = export.prepare(detector, "torchscript", str(tmp_path / "student.pt"))
    ((ours, theirs),) = job.evaluate(job.write()).values()
    config = os.path.join(detector, "config.yaml")
    options = ["MODEL.WEIGHTS", os.path.join(detector, "model_final.pth"), "OUTPUT_DIR", str(tmp_path)]
    wanted = flow.run(experiment_of(read(config, options), config, arguments(eval_only=True)))
    assert ours.scores == pytest.approx(wanted, nan_ok=True) and ours.scores == pytest.approx(
        theirs.scores, nan_ok=True
    )
    assert ours.latency > 0


@pytest.mark.parametrize("form", ENDINGS)
@pytest.mark.parametrize("run", ["segmenter", "classifier"])
def test_several_pictures_go_through_a_file_at_once(run, form, request, tmp_path):
    run, path = request.getfixturevalue(run), str(tmp_path / f"student{ENDINGS[form]}")
    assert exported(run, form, path) == 0
    images = torch.randint(0, 256, (3, 3, 50, 70), dtype=torch.uint8)
    (scores,) = formats.FORMATS[form].open(path)[1](images.numpy())
    torch.testing.assert_close(torch.from_numpy(scores), kd2.load(run)(images)[0], atol=1e-3, rtol=0)


@pytest.mark.parametrize("form", ENDINGS)
def test_a_file_cuts_a_picture_where_evaluation_cuts_it(classifier, form, tmp_path):
    """With sides whose share is a half, such as 42 / 1.12 = 37.5 and 36 / (8 / 7) = 31.5."""
    whole = export.prepare(classifier, "torchscript", options=["INPUT.TEST_SCALE", "1.0"]).predictor
    for name, scale, sides in (("first", 1.12, (42, 98, 100)), ("second", 256 / 224, (36, 52))):
        path = str(tmp_path / f"{name}{ENDINGS[form]}")
        assert exported(classifier, form, path, "INPUT.TEST_SCALE", str(scale)) == 0
        for side in sides:
            picture = np.random.default_rng(side).integers(0, 256, (3, side, side), dtype=np.uint8)
            cut = round(side / scale)
            inner = slice((side - cut) // 2, (side - cut) // 2 + cut)
            (theirs,), (wanted,) = kd2.load(path).outputs(picture), whole.outputs(picture[:, inner, inner].copy())
            np.testing.assert_allclose(theirs, wanted, atol=1e-6)


def test_a_file_that_exists_is_kept(classifier, tmp_path):
    (tmp_path / "student.pt").write_text("mine")
    with pytest.raises(ConfigError, match="student.pt exists: --overwrite replaces it"):
        exported(classifier, "torchscript", tmp_path / "student.pt")
    assert exported(classifier, "torchscript", tmp_path / "student.pt", "--overwrite") == 0


def test_a_missing_package_is_named_with_its_extra(classifier, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ConfigError, match=r"'onnx' is missing: pip install 'kd2\[deploy\]'"):
        export.prepare(classifier, "onnx", str(tmp_path / "student.onnx"))


def test_an_unknown_format_is_refused_with_the_known_ones(classifier):
    with pytest.raises(ConfigError, match="--format is 'onxx'; did you mean onnx"):
        export.prepare(classifier, "onxx")


def test_an_ending_of_another_format_is_refused(classifier):
    with pytest.raises(ConfigError, match=r"--output is 'a.onnx', expected a name that ends in .pt"):
        export.prepare(classifier, "torchscript", "a.onnx")


def test_a_network_that_sees_windows_is_refused_before_anything_is_written(segmenter, tmp_path):
    words = ["TEST.WINDOW.SIZE", "[32, 32]", "TEST.WINDOW.STRIDE", "[16, 16]"]
    with pytest.raises(ConfigError, match="a file has no windows"):
        exported(segmenter, "torchscript", tmp_path / "student.pt", *words)
    assert os.listdir(tmp_path) == []


def test_an_architecture_that_no_file_holds_is_refused_by_name(segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ARCHITECTURES", ("RetinaNet",))
    with pytest.raises(ConfigError, match="PSPNet cannot be exported, only RetinaNet"):
        export.prepare(segmenter, "torchscript", str(tmp_path / "student.pt"))


def test_a_run_without_a_test_set_is_refused(classifier, tmp_path):
    with pytest.raises(ConfigError, match="DATASETS.TEST is empty"):
        exported(classifier, "torchscript", tmp_path / "student.pt", "DATASETS.TEST", "[]")


def test_a_file_that_differs_is_an_error(classifier, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export.Export, "compare", lambda *_: export.Differences({"scores": 0.5}))
    assert exported(classifier, "torchscript", tmp_path / "student.pt") == 1
    assert "does not find what PyTorch finds" in capsys.readouterr().err


def test_a_file_of_another_tool_is_refused(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), str(tmp_path / "foreign.pt"))
    with pytest.raises(ConfigError, match="foreign.pt: expected a file of kd2-export"):
        kd2.load(str(tmp_path / "foreign.pt"))


def test_a_damaged_file_is_one_line(tmp_path, capsys):
    (tmp_path / "a.pt").write_bytes(b"nothing")
    assert cli.guarded(lambda: bool(kd2.load(str(tmp_path / "a.pt")))) == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/a.pt cannot be read: ")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["MODEL.DEVICE", "cuda"], "^MODEL.DEVICE cannot be given here: a file is written and compared .* on the CPU"),
        (["MODEL.WEIGHTS", "a.pth"], "^MODEL.WEIGHTS cannot be given here: --weights names the checkpoint"),
        (["INPUT.SIZE", "16", "--evaluate"], "^--evaluate stands among the KEY VALUE pairs, which come last"),
        (["INPUT.SIZE"], "^expected KEY VALUE pairs, found 1 words: INPUT.SIZE$"),
    ],
)
def test_words_that_would_change_nothing_are_refused(classifier, tmp_path, words, text):
    with pytest.raises(ConfigError, match=text):
        exported(classifier, "torchscript", tmp_path / "student.pt", *words)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_built(classifier, monkeypatch):
    def build(*_):
        raise AssertionError("a model was built")

    monkeypatch.setattr(export, "predictor_of", build)
    with pytest.raises(ConfigError, match="^--output: the folder '/proc' is not writable"):
        exported(classifier, "torchscript", "/proc/student.pt")


def test_as_many_images_are_told_as_were_compared(detector, tmp_path, capsys):
    exported(detector, "torchscript", tmp_path / "student.pt")
    assert "| on 6 images " in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes",
    [{"classes": "abc"}, {"classes": [1]}, {"pixel_range": [0]}, {"task": "flying"}, {"architecture": 5}, {"more": 1}],
)
def test_facts_that_no_export_wrote_are_refused(classifier, tmp_path, changes):
    path = str(tmp_path / "student.pt")
    exported(classifier, "torchscript", path)
    facts = {"kd2": ""}
    module = torch.jit.load(path, _extra_files=facts)
    torch.jit.save(module, path, _extra_files={"kd2": json.dumps(json.loads(facts["kd2"]) | changes)})
    with pytest.raises(ConfigError, match="student.pt: expected a file of kd2-export, which tells its task"):
        kd2.load(path)


def test_the_reason_of_a_runtime_is_told_not_its_place():
    error = RuntimeError(
        "Exception from src/core.cpp:84:\nException from src/reader.cpp:148:\nUnable to read the model"
    )
    assert formats.first_line(error) == "RuntimeError: Unable to read the model"
