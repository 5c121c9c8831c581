"""The logs of a run: on the screen from the first line on, in its folder once it has begun."""

import logging

from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

_LOGGERS = ("fvcore", "detectron2", "kd2")


def log_on_screen() -> None:
    """Show the first process's logs; an error of the training loop is told by whoever catches it, not in its log."""
    logging.getLogger("detectron2.engine.train_loop").addFilter(_no_traceback)
    for name in _LOGGERS:
        setup_logger(None, distributed_rank=comm.get_rank(), name=name)


def log_into(folder: str) -> None:
    """Write the logs of this process to log.txt in ``folder``, with its rank behind the name but for the first."""
    for name in _LOGGERS:
        setup_logger(folder, distributed_rank=comm.get_rank(), name=name, configure_stdout=False)


def _no_traceback(record: logging.LogRecord) -> bool:
    return not record.exc_info
