from ...helpers import lightning_runs as runs
from ...helpers.trees import tree


def test_a_run_writes_into_its_output_folder_alone(task, tmp_path, monkeypatch):
    working = tmp_path / "working"
    working.mkdir()
    config = task.write_config(tmp_path, {})
    before = tree(tmp_path)
    monkeypatch.chdir(working)
    runs.train(config, "SOLVER.MAX_ITER", "1")
    assert (tmp_path / "out" / "model_final.pth").is_file()
    assert tree(tmp_path, without=tmp_path / "out") == before
