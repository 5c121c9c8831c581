"""Files behind names and addresses: fetched once, kept under the whole address."""

import hashlib
import http.client
import os
import re
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from iopath.common.file_io import get_cache_dir
from tqdm import tqdm

from kd2 import __version__
from kd2.distill import ConfigError, nearest
from kd2.engine.weights.names import published
from kd2.runs.folder import BEST, FINAL, check_writable

# Names a folder that ``fetch`` filled, on a machine without a network.
FOLDER = "KD2_WEIGHTS"
# The first digits of a file's SHA-256, as torch, torchvision and OpenMMLab write them into its name; no date.
_SHA256 = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")
# Bytes that are read at a time, and seconds in which a server must send some.
_CHUNK, _PATIENCE = 1 << 20, 60


@dataclass(frozen=True)
class Fetched:
    """A file of published weights on this machine; ``size`` in bytes, ``sha256`` in hexadecimal digits."""

    name: str
    address: str
    path: str
    size: int
    sha256: str
    license: str


def local_file(source: str, key: str) -> str:
    """The file that a config key names.

    A path stays as it is, a folder of a run stands for its model_best.pth or, without one, its model_final.pth. What a
    name or address (see ``names.py``) means is taken from the folder ``$KD2_WEIGHTS`` where it has the file.
    Otherwise it is fetched into the folder ``kd2`` of ``torch.hub.get_dir()``, each under the SHA-256 of its address:
    two that end in one name stay two. What Detectron2 and torchvision keep of what they publish themselves is taken
    from there.

    Args:
        key: for errors.

    Raises:
        ConfigError: no such file; a name or address that is none, cannot be reached, or whose file has another SHA-256
            than its name says.
    """
    if os.path.isdir(source):
        best = os.path.join(source, BEST)
        source = best if os.path.isfile(best) else os.path.join(source, FINAL)
    found = None if os.path.isfile(source) else published(source, key)
    if found is None:
        check_file(source, key)
        return source
    address, hub = found.address, os.path.join(torch.hub.get_dir(), "kd2")
    kept = os.path.join(hub, hashlib.sha256(address.encode()).hexdigest())
    for path in (_below(os.environ.get(FOLDER, ""), address), _cached(address), kept):
        if os.path.isfile(path):
            return path
    _fetch(address, kept, key)
    return kept


def fetch(names: Sequence[str], folder: str) -> list[Fetched]:
    """Bring the files of names and addresses into ``folder``, from where ``$KD2_WEIGHTS`` gives them to runs.

    Files that are there stay, and are compared with the digits in their names too.

    Raises:
        ConfigError: see ``local_file``; a path among the names; the folder cannot be written.
    """
    check_writable(folder, "--to")
    rows = []
    for name in names:
        found = published(name, "NAME")
        if found is None:
            raise ConfigError(f"NAME: {name} is a path, expected the name or the address of published weights")
        path = _below(folder, found.address)
        if not os.path.isfile(path):
            _fetch(found.address, path, "NAME")
        digest = _checked_digest(path, found.address, f"NAME: {path}")
        rows.append(Fetched(name, found.address, path, os.path.getsize(path), digest, found.license))
    return rows


def check_file(path: str, key: str) -> None:
    """Raises ConfigError naming the config key ``key`` and near file names when there is no file ``path``."""
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        near = nearest(os.path.basename(path), os.listdir(folder)) if os.path.isdir(folder) else f"no folder {folder}"
        raise ConfigError(f"{key}: no file {path}; {near}")


def _plain(address: str) -> str:
    """Host and path of an address, or nothing where they would not do as the names of folders and a file."""
    rest = re.sub(r"^https?://", "", address)
    return rest if re.fullmatch(r"(\w[\w.%:-]*/)+\w[\w.%-]*", rest) else ""


def _below(folder: str, address: str) -> str:
    """Where ``fetch`` keeps the file of an address; empty without a folder."""
    name = _plain(address) or hashlib.sha256(address.encode()).hexdigest()
    return os.path.join(folder, name) if folder else ""


def _cached(address: str) -> str:
    """Where the library that publishes an address keeps its file; empty for others."""
    host, _, path = _plain(address).partition("/")
    if address.startswith("https://") and host == "dl.fbaipublicfiles.com":
        return os.path.join(get_cache_dir(), path)
    if address.startswith("https://") and host == "download.pytorch.org":
        return os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(path))
    return ""


def _checked_digest(path: str, address: str, key: str) -> str:
    """The SHA-256 of a file; raises ConfigError when it does not begin with the digits in the file's address."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    expected = _SHA256.search(address.partition("?")[0])
    if expected and not digest.startswith(expected.group(1)):
        raise ConfigError(
            f"{key} is damaged or another file: its SHA-256 begins with {digest[:8]}, expected {expected.group(1)}"
        )
    return digest


def _fetch(source: str, path: str, key: str) -> None:
    """Fetch an address into a file, which is there when all of it is."""
    where, partial = f"{key}: {source}", f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        request = urllib.request.Request(source, headers={"User-Agent": f"kd2/{__version__}"})
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
            _save(answer, partial, where)
        _checked_digest(partial, source, where)
        os.replace(partial, path)
    except ConfigError:
        raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ConfigError(f"{where} could not be fetched: {error}") from None
    finally:
        if os.path.exists(partial):
            os.remove(partial)


def _save(answer: http.client.HTTPResponse, path: str, where: str) -> None:
    """Write what a server sends into a file.

    Raises:
        ConfigError: a page in place of a file, or less than was announced.
    """
    if answer.headers.get("Content-Type", "").startswith("text/html"):
        raise ConfigError(f"{where} is a page (text/html), expected a file of weights")
    announced = int(answer.headers.get("Content-Length") or 0)
    name = os.path.basename(where)
    with open(path, "wb") as file, tqdm.wrapattr(file, "write", total=announced or None, desc=name) as sink:
        shutil.copyfileobj(answer, sink, _CHUNK)
    if announced and os.path.getsize(path) != announced:
        raise ConfigError(f"{where} ended behind {os.path.getsize(path)} of {announced} bytes; try again")
