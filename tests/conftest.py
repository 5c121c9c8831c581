"""One thread for every test: sums then have one order, and small tensors are faster so."""

import logging

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def fresh_logger():
    """Detectron2 gives kd2's logger handlers of its own and cuts it off from the root; a test starts without them."""
    logger = logging.getLogger("kd2")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)
