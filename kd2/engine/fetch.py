"""Files behind addresses: fetched once, kept under the whole address."""

import hashlib
import http.client
import os
import re

import torch
from iopath.common.file_io import get_cache_dir

from kd2.distill import ConfigError, nearest

# The first digits of a file's SHA-256, as torch, torchvision and OpenMMLab write them into its name; no date.
_SHA256 = re.compile(r"-(?!20\d{6}\.)([0-9a-f]{8,64})\.\w+$")


def local_file(source: str, key: str) -> str:
    """The file that a config key names: a path as it is, the file of an address after it was fetched.

    Fetched files lie in the folder ``kd2`` of ``torch.hub.get_dir()``, each under the SHA-256 of its address: two that
    end in one name stay two. What Detectron2 and torchvision keep of what they publish themselves is taken from there.

    Args:
        key: for errors.

    Raises:
        ConfigError: no such file; an address that is none, cannot be reached, or whose file has another SHA-256 than
            its name says.
    """
    if "://" not in source:
        check_file(source, key)
        return source
    if not source.startswith(("http://", "https://")):
        raise ConfigError(f"{key}: {source} is no address, expected one that begins with https:// or http://")
    kept = _published(source)
    if not os.path.isfile(kept):
        kept = os.path.join(torch.hub.get_dir(), "kd2", hashlib.sha256(source.encode()).hexdigest())
    if not os.path.isfile(kept):
        _fetch(source, kept, key)
    return kept


def check_file(path: str, key: str) -> None:
    """Raises ConfigError naming the config key ``key`` and near file names when there is no file ``path``."""
    if not os.path.isfile(path):
        folder = os.path.dirname(path) or "."
        near = nearest(os.path.basename(path), os.listdir(folder)) if os.path.isdir(folder) else f"no folder {folder}"
        raise ConfigError(f"{key}: no file {path}; {near}")


def _published(source: str) -> str:
    """Where the library that publishes an address keeps its file; empty for others."""
    host, _, path = source.removeprefix("https://").partition("/")
    if re.fullmatch(r"(\w[\w.%-]*/)*\w[\w.%-]*", path):
        if host == "dl.fbaipublicfiles.com":
            return os.path.join(get_cache_dir(), path)
        if host == "download.pytorch.org":
            return os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(path))
    return ""


def _fetch(source: str, path: str, key: str) -> None:
    expected = _SHA256.search(source.partition("?")[0])
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        torch.hub.download_url_to_file(source, path, expected.group(1) if expected else None)
    except (OSError, http.client.HTTPException, ValueError, RuntimeError) as error:
        raise ConfigError(f"{key}: {source} could not be fetched: {error}") from None
