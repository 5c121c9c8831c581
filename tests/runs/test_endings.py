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
