"""Files of ``torch.save``, pickles and safetensors, read without code; only ``--allow-pickle`` lets a file run any."""

import argparse
import pickle
import zipfile
from typing import Any

import torch

from kd2.data import plain_pickle
from kd2.distill import ConfigError
from kd2.engine.permission import require_pickles

_ZIP = b"PK\x03\x04"
# The number that begins the files of torch before 1.6, as pickle writes it.
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# What files begin with that are often found in the place of weights.
_OTHERS = {
    b"version https://git-lfs.": "a pointer of Git LFS in place of its file, which 'git lfs pull' brings",
    b"<": "a page (HTML or XML)",
    b"{": "a text (JSON)",
    b"\x1f\x8b": "packed (gzip)",
}
# How the readers say that a file holds more than data.
_FOREIGN = ("Unsupported global", "unsupported GLOBAL", "unrecognized function", "it builds")


def read_file(path: str, where: str) -> Any:
    """What a file holds, whatever its name: tensors (on the CPU), arrays and plain containers.

    Args:
        where: config key and file, which begin every error.

    Raises:
        ConfigError: a truncated or foreign file, a damaged one (the check sums of its entries are compared), one that
            would run code, or that is no file of weights at all.
    """
    try:
        other = _no_weights(path)
        damaged = "" if other else _damaged(path)
        if not (other or damaged):
            return _plain(path)
    except ImportError as error:
        raise ConfigError(f"{where} needs the package {error.name}, which is missing here") from None
    except Exception as error:  # a damaged file may lead its reader to anything
        text = _first(error)
        if not any(sign in text for sign in _FOREIGN):
            raise ConfigError(f"{where} is truncated or no checkpoint ({text})") from None
    else:
        text = f"damaged: {damaged}" if damaged else f"{other}, expected a file of weights"
        raise ConfigError(f"{where} is {text}")
    require_pickles(where, text)
    try:
        return _with_code(path)
    except Exception as error:  # the file's own code fails
        raise ConfigError(f"{where} cannot be unpickled ({type(error).__name__}: {error})") from None


def _plain(path: str) -> Any:
    if _of_safetensors(_head(path)):
        from safetensors.torch import load_file  # comes with timm, whose files have this form

        return load_file(path)
    if _of_torch(path):
        with torch.serialization.safe_globals([argparse.Namespace]):  # holds its attributes, does nothing
            return torch.load(path, map_location="cpu", weights_only=True)
    with open(path, "rb") as file:
        return plain_pickle.load(file)


def _with_code(path: str) -> Any:
    if _of_torch(path):
        return torch.load(path, map_location="cpu", weights_only=False)
    with open(path, "rb") as file:
        return pickle.load(file, encoding="latin1")


def _of_torch(path: str) -> bool:
    """Whether ``torch.save`` wrote a file."""
    head = _head(path)
    return head.startswith(_ZIP) or _OLD_TORCH in head


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def _of_safetensors(head: bytes) -> bool:
    return head[8:10] == b'{"'  # behind the number of bytes that the names take


def _no_weights(path: str) -> str:
    """What a file is instead of weights; empty for any other file."""
    head = _head(path)
    if not head:
        return "empty"
    if head.startswith(_ZIP):
        return _other_archive(path)
    text = b"" if _of_safetensors(head) else head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return next((name for start, name in _OTHERS.items() if text.startswith(start)), "")


def _other_archive(path: str) -> str:
    """What a ZIP file is that torch.save did not write; empty for one that it wrote."""
    with zipfile.ZipFile(path) as archive:
        names = {entry.rpartition("/")[2] for entry in archive.namelist()}
    if "constants.pkl" in names:
        return "a TorchScript program"
    return "" if "data.pkl" in names else "an archive (ZIP) of other files"


def _damaged(path: str) -> str:
    """What the check sums of a ZIP file, at which torch itself does not look, say; empty for a good or another file."""
    if not _head(path).startswith(_ZIP):
        return ""
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type for entry in archive.infolist()):
            return "its entries are compressed, which torch never does"
        entry = archive.testzip()
        return f"the check sum of its entry {entry} is wrong" if entry else ""


def _first(error: Exception) -> str:
    """The first sentence of an error in one line; torch puts advice around its own."""
    text = " ".join(str(error).split())
    for lead in ("WeightsUnpickler error: ", "trusted source. "):
        text = text.rpartition(lead)[2]
    return text.split(" was not an allowed global")[0].split(". ")[0] or type(error).__name__
