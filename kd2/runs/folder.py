"""The folder of a run, ``OUTPUT_DIR``: what lies there, whose it is, which checkpoint is the last."""

import contextlib
import errno
import fcntl
import glob
import logging
import os
import re
import tempfile
from argparse import Namespace
from collections.abc import Iterable, Iterator
from typing import Any

from kd2.distill import ConfigError
from kd2.runs.files import PARTIAL, copy_atomically, save_atomically, write_atomically

logger = logging.getLogger(__name__)

FINAL, BEST = "model_final.pth", "model_best.pth"
CONFIG, RESULTS, ERRORS = "config.yaml", "results.json", "error.log"
_LOCK, _LAST = "run.lock", "last_checkpoint"
# The names that a run writes, as patterns; logs are added to, everything else is written over.
_NUMBERED = r"model_\d{7,}\.pth"
_CHECKPOINTS = rf"{_LAST}|{_NUMBERED}|model_(final|best)\.pth"
_TEXTS = r"config\.yaml|hparams\.yaml|student\.yaml|results\.json"
_OWN = rf"{_CHECKPOINTS}|{_TEXTS}"
_LOGS = r"error\.log|metrics\.json|log\.txt(\.rank\d+)?|events\.out\.tfevents\..+"
_CSV = ("metrics.csv", "hparams.yaml")  # of csv/version_N
_MARK = "# The config of a run of kd2.\n"  # the first line of its config.yaml


@contextlib.contextmanager
def claimed(folder: str, args: Namespace, needed: Iterable[str] = ()) -> Iterator[None]:
    """Hold ``OUTPUT_DIR`` for one training inside the block. Nothing but an empty file ``run.lock`` is written.

    The kernel lets go of the lock when the process ends, however it ends, although forked loader workers live on.

    Args:
        args: resume and overwrite, as on the command line.
        needed: files, and folders of runs, that the run reads: ``overwrite`` must not remove them.

    Raises:
        ConfigError: the folder is not writable, another process trains there, it holds a run and neither ``resume``
            nor ``overwrite`` is given, or files of a run's names that no run of kd2 wrote there; what ``overwrite``
            would remove is a folder, or needed.
    """
    check_writable(folder)
    if not began(folder):
        _refuse_foreign(folder, _TEXTS if args.resume else rf"{_OWN}|{_LOGS}" if args.overwrite else _OWN)
    if args.overwrite:
        _refuse_removal(folder, needed)
    with open(os.path.join(folder, _LOCK), "a") as file:
        _lock(file.fileno(), folder)
        if not (args.resume or args.overwrite):
            _refuse_run(folder)
        yield


def begin(folder: str, config: str, overwrite: bool) -> None:
    """Change ``OUTPUT_DIR`` for the first time, after all checks: ``config`` is left there as config.yaml.

    Args:
        overwrite: remove a former run first, by the names that a run of kd2 writes; other files stay.
    """
    _remove(folder, rf"({_OWN}){PARTIAL}")
    if overwrite:
        _remove(folder, _LAST)  # first of all: what is left of a half removed run is never resumed
        _remove(folder, rf"{_OWN}|{_LOGS}")
        for place in [*glob.glob(os.path.join(glob.escape(folder), "csv", "version_*")), os.path.join(folder, "csv")]:
            _remove(place, "|".join(map(re.escape, _CSV)))
            with contextlib.suppress(OSError):  # there are other files
                os.rmdir(place)
    _remove(folder, re.escape(RESULTS))  # of a student that this run is about to go beyond
    write_atomically(_MARK + config, os.path.join(folder, CONFIG))


def keep(content: dict[str, Any], path: str, most: int) -> None:
    """Write a checkpoint, from which its run is resumed then, and drop the oldest ones.

    Args:
        most: how many of the numbered checkpoints stay; 0: all.
    """
    save_atomically(content, path)
    tag_last_checkpoint(path)
    folder = os.path.dirname(path)
    numbered = [os.path.join(folder, name) for name in _named(folder, _NUMBERED)]
    for old in sorted(numbered, key=lambda p: (os.path.getmtime(p), p))[: -most or None] if most else []:
        if old != path:
            os.remove(old)


def keep_final(saved: str, folder: str) -> None:
    """Make a copy of the checkpoint of the last iteration the final one: its run was killed before it wrote that."""
    path = os.path.join(folder, FINAL)
    if os.path.abspath(saved) != os.path.abspath(path):
        copy_atomically(saved, path)
        tag_last_checkpoint(path)


def tag_last_checkpoint(path: str) -> None:
    """Make ``path`` the one from which its run is resumed."""
    folder, name = os.path.split(path)
    write_atomically(name, os.path.join(folder, _LAST))


def last_checkpoint(folder: str) -> str | None:
    """The checkpoint that a run saved last, None before the first. Older runs in the same folder do not count.

    Raises:
        ConfigError: the file ``last_checkpoint`` names something else than a file beside it.
    """
    tag = os.path.join(folder, _LAST)
    if not os.path.isfile(tag):
        return None
    with open(tag, encoding="utf-8", errors="replace") as file:
        name = file.read(4096).strip()
    if not name or name != os.path.basename(name):
        raise ConfigError(f"--resume: {tag} holds {name!r}, expected the name of a checkpoint beside it")
    return os.path.join(folder, name)


def newest_student(folder: str) -> str | None:
    """The final checkpoint of a run; before its end, or while a finished one goes on, the last; None before the first.

    Raises:
        ConfigError: see ``last_checkpoint``.
    """
    last, final = last_checkpoint(folder), os.path.join(folder, FINAL)
    found = [path for path in (last, final) if path and os.path.isfile(path)]
    return found[0] if found else last


def resumable(folder: str) -> str:
    """The checkpoint from which ``--resume`` goes on; raises ConfigError where a run left none."""
    saved = last_checkpoint(folder)
    if saved is None:
        raise ConfigError(f"--resume: OUTPUT_DIR {folder!r} has no checkpoint to go on from; start without --resume")
    return saved


def began(folder: str) -> bool:
    """Whether a run of kd2 has written into the folder."""
    try:
        with open(os.path.join(folder, CONFIG), encoding="utf-8", errors="replace") as file:
            return file.readline() == _MARK
    except OSError:
        return False


def check_writable(folder: str, key: str = "OUTPUT_DIR") -> None:
    """Create an output folder. Raises ConfigError naming the key or argument when nothing can be written there."""
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # a name of its own: other processes of the run do the same
            pass
    except OSError as error:
        raise ConfigError(f"{key} {folder!r} is not writable: {error.strerror}") from None


def _lock(descriptor: int, folder: str) -> None:
    # A record lock: a flock would pass to the workers that a data loader forks, and outlive a killed run.
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise ConfigError(
                f"OUTPUT_DIR {folder!r} is in use: another process trains there; name another folder"
            ) from None
        logger.warning("OUTPUT_DIR %r cannot be locked (%s): start no second run there", folder, error.strerror)


def _refuse_removal(folder: str, needed: Iterable[str]) -> None:
    kept = {os.path.realpath(path) for path in needed if path}
    for name in _named(folder, rf"{_OWN}|{_LOGS}"):
        path = os.path.join(folder, name)
        if os.path.isdir(path) or {os.path.realpath(path), os.path.realpath(folder)} & kept:
            why = "a folder, which no run wrote" if os.path.isdir(path) else "a file that this run reads"
            raise ConfigError(f"--overwrite would remove {path}, {why}; name another OUTPUT_DIR")


def _refuse_foreign(folder: str, pattern: str) -> None:
    found = _named(folder, pattern)
    if found:
        raise ConfigError(
            f"OUTPUT_DIR {folder!r} holds {', '.join(found[:3])}, which no run of kd2 wrote there and a run would "
            "write over; name another folder"
        )


def _refuse_run(folder: str) -> None:
    found = _named(folder, _CHECKPOINTS)
    if found:
        resume = "--resume goes on with it" if _LAST in found else f"without {_LAST} it cannot be resumed"
        raise ConfigError(
            f"OUTPUT_DIR {folder!r} holds a run ({found[-1]}): {resume}, --overwrite removes it, "
            "another OUTPUT_DIR keeps it"
        )


def _named(folder: str, pattern: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if re.fullmatch(pattern, name))


def _remove(folder: str, pattern: str) -> None:
    if os.path.isdir(folder):
        for name in _named(folder, pattern):
            os.remove(os.path.join(folder, name))
