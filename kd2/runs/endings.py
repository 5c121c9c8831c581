"""How a run ends that does not end well: by a signal, by a fault of kd2, by a process that was lost."""

import contextlib
import os
import shlex
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from types import FrameType

import torch

from kd2.distill import USER_ERRORS, ConfigError
from kd2.runs.files import write_atomically
from kd2.runs.folder import ERRORS
from kd2.runs.packages import missing

_HANDLED = (signal.SIGINT, signal.SIGTERM)
# Texts of errors that say: another process is gone.
_LOST_WORKER, _LOST_RANK = "DataLoader worker (pid", ("closed by peer", "reset by peer", "Connection refused")


class Interrupted(SystemExit):
    """A signal ended the run; ``code`` is 128 + its number.

    Attributes:
        saved: the run's last checkpoint, if it has one.
        command: with which it goes on, if somebody knows.
    """

    def __init__(self, signum: int, saved: str | None = None, command: str = ""):
        super().__init__(128 + signum)
        self.signum, self.saved, self.command = signum, saved, command

    def text(self) -> str:
        """One line for the user."""
        student = f"the student is in {self.saved}" if self.saved else "no checkpoint was saved"
        more = f"; to go on: {self.command}" if self.saved and self.command else ""
        return f"interrupted by {signal.Signals(self.signum).name}: {student}{more}"


class Fault(RuntimeError):
    """A fault of kd2 or of a library. The text is one line that names the file with the traceback."""


# What ends a command with one line and exit code 1.
TOLD = (*USER_ERRORS, Fault)


class _Signals:
    """SIGINT and SIGTERM of this process: raised at once, or kept for the end of a training step."""

    def __init__(self) -> None:
        self.owner = 0
        self.waits: Callable[[], bool] = lambda: False
        self.pending: int | None = None

    def handle(self, signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != self.owner:
            return  # a forked loader worker, which its parent ends
        # The signal may have gone to the loader's workers too. PyTorch would raise an error at the end of each.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if self.pending is None and self.waits():
            self.pending = signum
        else:
            raise Interrupted(signum)


_SIGNALS = _Signals()


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Inside the block SIGINT and SIGTERM raise ``Interrupted``. Elsewhere than in the main thread nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in (*_HANDLED, signal.SIGCHLD)}
    _SIGNALS.owner, _SIGNALS.pending = os.getpid(), None
    take_signals()
    try:
        yield
    finally:
        _SIGNALS.owner = 0
        for signum, handler in before.items():
            signal.signal(signum, handler)


def take_signals() -> None:
    """Inside ``signals_raise``, undo what a framework has made of the handlers."""
    if _SIGNALS.owner == os.getpid():
        for signum in _HANDLED:
            signal.signal(signum, _SIGNALS.handle)


@contextlib.contextmanager
def patient(waits: Callable[[], bool]) -> Iterator[None]:
    """Inside the block a first signal waits: ``pending`` tells of it, and leaving the block raises ``Interrupted``.

    Args:
        waits: asked when it comes; where that is false, it raises at once. A second one always does.
    """
    raise_pending()
    before, _SIGNALS.waits = _SIGNALS.waits, waits
    try:
        yield
        raise_pending()
    except Exception:
        raise_pending()  # the signal went to a loader worker too, whose end came first
        raise
    finally:
        _SIGNALS.waits = before


def pending() -> int | None:
    """The signal that waits for the end of a step, if there is one."""
    return _SIGNALS.pending


def raise_pending() -> None:
    """Raise ``Interrupted`` for the signal that waits, if there is one."""
    if _SIGNALS.pending is not None:
        raise Interrupted(_SIGNALS.pending)


@contextlib.contextmanager
def reported(folder: str | None = None) -> Iterator[None]:
    """Errors inside the block leave it as one line each: what is no user's error becomes a ``Fault``.

    Args:
        folder: ``OUTPUT_DIR``, where the traceback of a fault is left; None: in a temporary file.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, TOLD) and not isinstance(error, ConnectionError):
            raise
        raise _told(error, folder) from error


def _told(error: Exception, folder: str | None) -> Exception:
    # PyTorch's signal handler says it wherever the run is just then, such as in code that makes another error of it.
    behind = error.__cause__
    if isinstance(behind, Exception) and str(behind).startswith(_LOST_WORKER):
        error = behind
    lacking = missing(error.name) if isinstance(error, ModuleNotFoundError) else None
    if lacking:
        return lacking
    line = str(error).strip().splitlines()[0] if str(error).strip() else ""
    if isinstance(error, torch.OutOfMemoryError):
        return ConfigError(f"{line} SOLVER.IMS_PER_BATCH and the image sizes decide what a step needs")
    if line.startswith(_LOST_WORKER) or _cut_off(error):
        return ChildProcessError(f"a worker of the data loader was lost: {line}; the last checkpoint is kept")
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _LOST_RANK):
        return ChildProcessError(
            f"another process of the run was lost ({line.split('. ')[0]}); the last checkpoint is kept"
        )
    return Fault(f"{type(error).__name__}: {line}; this is a fault, its traceback is in {_log(folder)}")


def _cut_off(error: BaseException) -> bool:
    """Whether the other end of a pipe between processes went away: a loader's worker, before PyTorch noticed."""
    frames = traceback.extract_tb(error.__traceback__)
    between = bool(frames) and "multiprocessing" in frames[-1].filename
    return between and isinstance(error, (ConnectionError, EOFError))


def _log(folder: str | None) -> str:
    """Leave the traceback of the error that is being handled in a file; returns its path."""
    text = f"{shlex.join(sys.argv)}\n\n{traceback.format_exc()}"
    if folder:
        path = os.path.join(folder, ERRORS)
        with contextlib.suppress(OSError):
            write_atomically(text, path)
            return path
    with tempfile.NamedTemporaryFile("w", prefix="kd2_error_", suffix=".log", delete=False) as file:
        file.write(text)
    return file.name
