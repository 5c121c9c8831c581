"""What becomes of an error that ends a run."""

import multiprocessing

import pytest

from kd2.runs.endings import reported


def test_a_pipe_whose_other_end_went_away_is_a_lost_worker():
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    text = "^a worker of the data loader was lost: .*; the last checkpoint is kept$"
    with pytest.raises(ChildProcessError, match=text), reported():
        ours.recv()


def test_a_lost_worker_is_told_behind_an_error_that_was_made_of_it():
    with pytest.raises(ChildProcessError, match="^a worker of the data loader was lost: DataLoader worker"), reported():
        try:
            raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")
        except RuntimeError as error:
            raise TypeError("unsupported callable") from error
