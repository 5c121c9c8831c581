"""Pickles that can build nothing but NumPy arrays, numbers, texts and plain containers: reading one runs no code.

Detectron2's zoo, Caffe2, proposals and CIFAR come as such files. ``pickle.load`` calls whatever a file names; here a
file may name the few functions below, which are our own, and it may set the state of arrays and their types alone.
"""

import contextlib
import io
import math
import pickle
import re
import types
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

# Numbers, bool and text of a fixed length. Types of objects and records are left out: their arrays hold pointers.
_TYPES = re.compile(r"[biufcSU?]\d{0,4}")


def load(file: BinaryIO, encoding: str = "latin1") -> Any:
    """What an open pickle of any protocol, of Python 2 or 3 and NumPy 1 or 2, holds.

    Args:
        encoding: of the texts of Python 2. Their raw bytes, as NumPy has them, come out right with ``latin1`` alone.

    Raises:
        pickle.UnpicklingError: a damaged file, or one that builds anything else; says what.
    """
    try:
        return _Unpickler(io.BytesIO(file.read()), encoding=encoding).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged file may lead every operation to anything
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from None


@contextlib.contextmanager
def in_place_of_pickle(module: types.ModuleType) -> Iterator[None]:
    """Inside the block a module of another library that unpickles files reads plain ones alone.

    Args:
        module: imported ``pickle`` under its own name.
    """
    before = module.pickle
    module.pickle = types.SimpleNamespace(load=load)  # type: ignore[attr-defined]  # of the module in hand
    try:
        yield
    finally:
        module.pickle = before  # type: ignore[attr-defined]  # likewise


class _Type:
    """Stands in for a ``numpy.dtype``, whose own state could make pointers out of bytes."""

    def __init__(self, code: str, _align: Any = False, _copy: Any = True):
        if not _TYPES.fullmatch(code):
            raise pickle.UnpicklingError(f"it holds an array of the type {code!r}, expected numbers or texts")
        self.dtype = np.dtype(code)

    def restore(self, state: tuple[Any, ...]) -> None:
        order, *parts = state[1:5]
        if any(part is not None for part in parts):
            raise pickle.UnpicklingError("it holds an array of records, expected numbers or texts")
        self.dtype = self.dtype.newbyteorder("|" if order == "|" else "<" if order == "<" else ">")


class _Ndarray:
    """Stands in for ``numpy.ndarray`` where a file names the class."""


def _reconstruct(kind: type, *_: Any) -> np.ndarray:
    if kind is not _Ndarray:
        raise pickle.UnpicklingError("it holds an array of another class than numpy.ndarray")
    return np.empty(0, np.int8)


def _state(kind: _Type, shape: tuple[int, ...], fortran: bool, raw: str | bytes | bytearray) -> tuple[Any, ...]:
    """The checked state of an array; in a text of Python 2 each character is a byte."""
    content = raw.encode("latin1") if isinstance(raw, str) else bytes(raw)
    if math.prod(shape) * kind.dtype.itemsize != len(content) or min(shape, default=0) < 0:
        raise pickle.UnpicklingError(f"it holds {len(content)} bytes for an array {shape} of {kind.dtype}")
    return 1, shape, kind.dtype, bool(fortran), content


def _scalar(kind: _Type, raw: str | bytes) -> Any:
    return _from_buffer(raw, kind, (), "C")[()]


def _from_buffer(raw: str | bytes | bytearray, kind: _Type, shape: tuple[int, ...], order: str) -> np.ndarray:
    array = _reconstruct(_Ndarray)
    array.__setstate__(_state(kind, shape, order == "F", raw))
    return array


def _encoded(text: str, encoding: str) -> bytes:
    if encoding.replace("-", "").replace("_", "") != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes in the encoding {encoding!r}, expected latin1")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("__builtin__", "bytes"): lambda: b"",  # how protocols 0 to 2 write no bytes
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): dict,
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Ndarray,
}
for _core in ("numpy.core", "numpy._core"):
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _KNOWN[f"{_core}.multiarray", "scalar"] = _scalar
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _from_buffer


# The one in Python: that in C takes as much memory as a number in the file says.
_InPython: Any = pickle._Unpickler


class _Unpickler(_InPython):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it builds {module}.{name}, expected arrays and plain containers alone")
        return _KNOWN[module, name]

    def load_build(self) -> None:
        """Set the state of an array or of a type; no other object takes one."""
        state = self.stack.pop()
        found = self.stack[-1]
        if isinstance(found, _Type):
            found.restore(state)
        elif isinstance(found, np.ndarray) and found.dtype == np.int8 and not found.size:
            _, shape, kind, fortran, raw = state
            found.__setstate__(_state(kind, shape, fortran, raw))
        else:
            raise pickle.UnpicklingError(f"it sets the state of a {type(found).__name__}")

    dispatch = {**_InPython.dispatch, pickle.BUILD[0]: load_build}
