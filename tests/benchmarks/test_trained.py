"""The students that are trained for ``tools/benchmark.py deploy --train``: each is trained and measured once."""

import pytest

pytest.importorskip("torchvision")
pytest.importorskip("lightning")

from benchmarks import deploy, trained
from benchmarks.proof import child
from kd2 import engine
from kd2.deploy.formats import FORMATS
from kd2.distill import ConfigError
from kd2.engine.permission import permitted

from ..helpers import tiny_classification
from ..helpers.untrained_runs import write_run


@pytest.fixture
def students(tmp_path):
    """A folder of students with the config of one classifier."""
    tiny_classification.write_data(tmp_path / "data")
    road = tmp_path / "students" / "timm"
    road.mkdir(parents=True)
    tiny_classification.write_config(road, tmp_path / "data", {"DATASETS": {"TEST": ["tiny_test"]}}, name="tiny")
    return tmp_path / "students"


@pytest.fixture
def trainings(monkeypatch):
    """The words of every training; it leaves a run with drawn weights."""
    calls = []

    def train(tool, words, log):
        calls.append([tool, *words])
        write_run(words[words.index("--config-file") + 1], *words[-2:])
        return child.End(0, 1.0, 1.0, "")

    monkeypatch.setattr(child, "call", train)
    return calls


def _rows(students):
    return list(trained.trained_rows(["torchscript"], students, students.parent / "output"))


def test_what_is_trained_and_measured_is_not_repeated(students, trainings):
    rows = _rows(students)
    assert [(row["format"], row["scores"]) for row in rows] == [("torchscript", "0")]
    ours, theirs = rows[0]["PyTorch / file"].rpartition("top1 ")[2].split(" / ")
    assert ours == theirs
    assert _rows(students) == rows  # times and all
    assert len(trainings) == 1


def test_without_its_rows_a_run_is_measured_again_but_not_trained(students, trainings):
    _rows(students)
    (kept,) = (students.parent / "output").glob("*.json")
    kept.unlink()
    assert len(_rows(students)) == 1 and kept.exists()
    assert len(trainings) == 1


def test_the_page_gets_the_rows_without_their_times(students, trainings, tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- deploy: trained -->\nformer\n<!-- end of deploy -->\nbehind\n")
    deploy.write_page(_rows(students), trained=True, page=page)
    header, _, row = (line for line in page.read_text().splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.strip("| ").split("|")] == list(deploy.SCORES)
    assert "torchscript" in row and "top1" in row
    assert page.read_text().startswith("before\n") and page.read_text().endswith("behind\n")
    assert "former" not in page.read_text()


def test_another_config_is_another_run(students, trainings):
    _rows(students)
    file = students / "timm" / "tiny.yaml"
    file.write_text(file.read_text().replace("MAX_ITER: ", "MAX_ITER: 1"))
    _rows(students)
    assert len({words[-1] for words in trainings}) == 2


def test_a_training_that_fails_is_named_with_its_error(students, monkeypatch):
    end = child.End(1, 1.0, 1.0, "much\nerror: SOLVER.BASE_LR is -1\n")
    monkeypatch.setattr(child, "call", lambda *words: end)
    with pytest.raises(ConfigError, match=r"tiny\.yaml was not trained: error: SOLVER\.BASE_LR is -1; .*\.log"):
        _rows(students)


@pytest.mark.parametrize("config", trained.configs(), ids=lambda config: f"{config.parent.name}-{config.stem}")
def test_every_student_can_be_built(config):
    if config.parent.name == "detectron2":
        pytest.importorskip("detectron2")
    with permitted(code=True):
        assert engine.for_evaluation(str(config), ["MODEL.DEVICE", "cpu"]).build_student()


def test_the_page_has_every_student_in_every_format():
    text = deploy.PAGE.read_text().split("<!-- deploy: trained -->")[1].split("<!-- end of deploy -->")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| student")]
    assert len(rows) == len(trained.configs()) * len(FORMATS)
