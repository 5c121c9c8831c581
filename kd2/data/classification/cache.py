"""The teacher's outputs of a whole data set on disk, for view modes under which they never change.

A cache is a folder: ``outputs.npy`` holds (images, classes) float32 logits and is read through a memory map,
``fingerprint.json`` says what they were computed from.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kd2.data.classification.views import Views, check_cacheable
from kd2.distill import ConfigError, DataError

_OUTPUTS, _FINGERPRINT = "outputs.npy", "fingerprint.json"
_KEY = "KD.VIEWS.CACHE"


@dataclass(frozen=True)
class Fingerprint:
    """What cached outputs depend on; a cache is used only where every field agrees.

    Attributes:
        teacher: digest of the teachers' weights and of all that changes their outputs (normalization, class order).
        data: digest of the data set.
        mode, size, draws: what the teacher saw.
        views: views an image.
        images, classes: shape of the outputs.
    """

    teacher: str
    data: str
    mode: str
    size: int
    draws: dict[str, Any]
    views: int
    images: int
    classes: int

    @classmethod
    def of(cls, views: Views, *, teacher: str, data: str, count: int, images: int, classes: int) -> "Fingerprint":
        """The fingerprint under a view mode; ``count`` is the number of views that ``fix/ic_ens`` averages.

        Raises:
            ConfigError: a mode whose teacher sees another view every epoch.
        """
        check_cacheable(views.name)
        fields = {"rs": (), "cc": ("scale", "padding"), "ic": ("area", "aspect", "flip")}[views.mode.teacher]
        draws = {name: getattr(views.crops, name) for name in fields}
        if views.mode.ensemble:
            draws["seed"] = views.seed
        plain = json.loads(json.dumps(draws))  # as it will be read back: tuples become lists
        many = count if views.mode.ensemble else 1
        return cls(teacher, data, views.name, views.teacher_size, plain, many, images, classes)


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of texts and bytes in order; where one ends counts."""
    mixed = hashlib.sha256()
    for part in parts:
        content = part.encode() if isinstance(part, str) else part
        mixed.update(len(content).to_bytes(8, "little"))
        mixed.update(content)
    return mixed.hexdigest()


def weights_digest(state: Mapping[str, Tensor]) -> str:
    """Digest of a state dict: names, shapes, types and values."""
    parts: list[str | bytes] = []
    for name in sorted(state):
        x = state[name].detach().cpu().contiguous()
        parts += [f"{name} {tuple(x.shape)} {x.dtype}", x.view(-1).view(torch.uint8).numpy().tobytes()]
    return digest(parts)


def mean_prediction(logits: Tensor) -> Tensor:
    """Logarithm (..., K) of the mean class probabilities of V views (V, ..., K) at temperature 1.

    It serves as logits: its softmax is the mean. Source: funmatch's ``fix/ic_ens``, which averages predictions.
    """
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(-1).logsumexp(0) - float(np.log(len(logits)))


def write_cache(folder: str, fingerprint: Fingerprint, outputs: Iterable[tuple[Sequence[int], Tensor]]) -> None:
    """Write a cache, all or nothing; only one process of a run does.

    Args:
        folder: must not exist; its parent is made.
        outputs: indices of images and their logits (n, K), in any order, every image once.

    Raises:
        ConfigError: the folder exists.
        DataError: an output of another shape, not finite, or missing.
        OSError: the disk is full. Whatever went wrong, nothing is left on disk.
    """
    if os.path.exists(folder):
        raise ConfigError(f"{_KEY}: {folder} exists; delete it to compute the teacher's outputs anew")
    parent = os.path.dirname(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    temporary = tempfile.mkdtemp(prefix=f"{os.path.basename(folder)}.partial", dir=parent)
    try:
        _fill(os.path.join(temporary, _OUTPUTS), fingerprint, outputs)
        with open(os.path.join(temporary, _FINGERPRINT), "w") as file:
            json.dump(asdict(fingerprint), file, indent=1)
        os.chmod(temporary, 0o755)
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(path: str, fingerprint: Fingerprint, outputs: Iterable[tuple[Sequence[int], Tensor]]) -> None:
    shape = (fingerprint.images, fingerprint.classes)
    start = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape).offset
    seen = np.zeros(fingerprint.images, dtype=bool)
    # Plain writes: a full disk is then an error, which a memory map answers by killing the process.
    with open(path, "r+b") as file:
        for indices, logits in outputs:
            _check_outputs(logits, (len(indices), fingerprint.classes), indices)
            seen[list(indices)] = True
            for index, row in zip(indices, logits.float().cpu().numpy()):
                file.seek(start + index * row.nbytes)
                file.write(row.tobytes())
        file.flush()
        os.fsync(file.fileno())
    if not seen.all():
        raise DataError(f"no outputs of {(~seen).sum()} of {len(seen)} images, the first is number {seen.argmin()}")


def _check_outputs(logits: Tensor, expected: tuple[int, int], indices: Sequence[int]) -> None:
    if tuple(logits.shape) != expected:
        raise DataError(f"the teacher's outputs have shape {tuple(logits.shape)}, expected {expected}")
    if not logits.isfinite().all():
        raise DataError(f"the teacher's outputs of some of the images {list(indices)[:5]}, ... are not finite")


class TeacherCache:
    """Cached logits, by index of the image.

    Raises:
        ConfigError: no complete cache in the folder, or one made from something else; names what differs.
    """

    def __init__(self, folder: str, fingerprint: Fingerprint):
        self.folder = folder
        _check_fingerprint(folder, asdict(fingerprint))
        try:
            self.outputs = np.lib.format.open_memmap(os.path.join(folder, _OUTPUTS), mode="r")
        except Exception as error:  # a damaged header may lead NumPy to anything
            raise ConfigError(f"{_KEY}: the outputs in {folder} cannot be read ({error}); delete it") from None
        expected = (fingerprint.images, fingerprint.classes)
        if self.outputs.shape != expected or self.outputs.dtype != np.float32:
            found = f"shape {self.outputs.shape} and type {self.outputs.dtype}"
            raise ConfigError(f"{_KEY}: the outputs in {folder} have {found}, expected {expected} float32; delete it")

    def __len__(self) -> int:
        return len(self.outputs)

    def __getitem__(self, indices: Sequence[int] | int) -> Tensor:
        """Logits (n, K) of n images, or (K,) of one, float32 on the host."""
        found = np.array(self.outputs[indices])
        if not np.isfinite(found).all():
            raise DataError(f"{_KEY}: the outputs of image {indices} in {self.folder} are not finite; delete it")
        return torch.from_numpy(found)


def _check_fingerprint(folder: str, expected: dict[str, Any]) -> None:
    path = os.path.join(folder, _FINGERPRINT)
    try:
        with open(path) as file:
            found = json.load(file)
    except OSError as error:
        raise ConfigError(f"{_KEY}: {folder} holds no cache ({error.strerror}: {path})") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{_KEY}: {path} is no JSON file; delete {folder}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{_KEY}: {path} holds a {type(found).__name__}, expected a dict; delete {folder}")
    other = [f"{k} {_short(found.get(k))} instead of {_short(v)}" for k, v in expected.items() if found.get(k) != v]
    if other:
        raise ConfigError(
            f"{_KEY}: {folder} was made from something else: {'; '.join(other)}; delete it or name another"
        )


def _short(value: Any) -> str:
    text = str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
