"""What every run asks of its machine: folders, devices, processes."""

import pytest

pytest.importorskip("torchvision", reason="needs torchvision")
pytest.importorskip("lightning", reason="needs lightning")

import torch

from kd2.distill import ConfigError

from ...helpers import lightning_runs as runs
from ...helpers import tiny_detection as tiny


@pytest.fixture
def student(tmp_path, data):
    """The config of a plain run of 6 iterations with checkpoints at 3 and 6."""
    return tiny.write_config(tmp_path, data)


def test_an_output_folder_below_a_file_is_refused(student, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^OUTPUT_DIR '.*file/out' is not writable: Not a directory$"):
        runs.train(student, "OUTPUT_DIR", str(tmp_path / "file" / "out"))


def test_an_output_folder_that_is_a_file_is_refused(student, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^OUTPUT_DIR '.*file' is not writable: File exists$"):
        runs.train(student, "OUTPUT_DIR", str(tmp_path / "file"))


def test_a_gpu_that_is_not_there_is_refused(student, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="^MODEL.DEVICE is 'cuda', but torch finds no GPU; auto takes what there is$"):
        runs.train(student, "MODEL.DEVICE", "cuda")


def test_fp16_is_refused_on_a_cpu_which_would_compute_in_another_precision(student):
    with pytest.raises(ConfigError, match="^SOLVER.AMP.PRECISION is 'fp16', which needs a CUDA device; bf16 trains"):
        runs.train(student, "SOLVER.AMP.ENABLED", "True")


def test_several_machines_need_an_address(student):
    with pytest.raises(ConfigError, match="^--dist-url is 'auto', expected tcp://HOST:PORT for several machines$"):
        runs.train(student, num_machines=2)


def test_a_plain_command_in_a_slurm_job_is_one_process_whatever_the_job_has_reserved(student, tmp_path, monkeypatch):
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "8",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3",
    }
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    runs.train(student, "SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "run"))
    assert runs.checkpoint(tmp_path / "run")["iteration"] == 0


def test_evaluation_needs_weights(student):
    with pytest.raises(ConfigError, match="^MODEL.WEIGHTS is empty, --eval-only needs the checkpoint to evaluate$"):
        runs.train(student, eval_only=True)
