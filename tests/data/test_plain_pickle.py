"""Every attack here would leave a marker, end the process or read foreign memory if the file had its way."""

import builtins
import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest

from kd2.data import plain_pickle

ARRAYS = {
    "float": np.arange(6, dtype=np.float32).reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar array": np.array(5.0),
    "empty": np.empty((0, 4)),
    "big-endian": np.arange(3, dtype=">i4"),
    "bool": np.array([True, False]),
    "half": np.array([1.5], np.float16),
    "text": np.array(["ab", "c"]),
    "bytes": np.array([b"ab", b"c"]),
}


def read(content: bytes):
    return plain_pickle.load(io.BytesIO(content))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_as_it_was(name, protocol):
    array = read(pickle.dumps({name: ARRAYS[name]}, protocol))[name]
    assert type(array) is np.ndarray and array.dtype == ARRAYS[name].dtype.newbyteorder("=")  # NumPy swaps on reading
    assert array.flags.f_contiguous == ARRAYS[name].flags.f_contiguous
    np.testing.assert_array_equal(array, ARRAYS[name])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_come_back(protocol):
    content = {"a": [1, 2.5, None, True], "b": ("x", b"\0\xff", b""), "c": np.float64(3), "d": {4: {}}}
    assert read(pickle.dumps(content, protocol)) == content
    assert read(pickle.dumps(collections.OrderedDict(b=1, a=2), protocol)) == {"b": 1, "a": 2}


def test_an_array_of_numpy_1_and_python_2_comes_back():
    """As Caffe2's R-50.pkl has it: protocol 2, texts and raw bytes as strings of Python 2."""
    raw = struct.pack("<2f", 1.5, -3.0)
    content = (
        b"\x80\x02}U\x07conv1_wcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08" + raw + b"tbs."
    )
    np.testing.assert_array_equal(read(content)["conv1_w"], np.array([1.5, -3.0], np.float32))


class Harm:
    """Makes a folder when ``pickle.load`` meets it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": [x]}, lambda x: np.array([x, None], dtype=object)])
def test_code_does_not_run(tmp_path, wrap, protocol):
    with pytest.raises(pickle.UnpicklingError, match="it builds|array of the type"):
        read(pickle.dumps(wrap(Harm(tmp_path / "marker")), protocol))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["os\nsystem", "builtins\neval", "builtins\ngetattr", "builtins\nbytearray", "numpy\nfrombuffer", "numpy\nload",
     "numpy.core.multiarray\nfromfile", "numpy\nndarray.tofile", "_codecs\ndecode", "collections\ndeque"],
)  # fmt: skip
def test_no_other_name_is_found(name):
    with pytest.raises(pickle.UnpicklingError, match="it builds .*, expected arrays and plain containers alone"):
        read(b"c" + name.encode() + b"\n.")


def array_of(kind: bytes, state: bytes, shape: bytes, raw: bytes) -> bytes:
    """A pickle of protocol 2 of one array whose type and shape are opcodes."""
    made = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01" + shape
    return made + b"cnumpy\ndtype\n" + kind + b"\x89\x88\x87R" + state + b"\x89" + raw + b"tb."


PLAIN = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"


def test_a_plain_array_of_these_opcodes_is_read():
    assert read(array_of(b"U\x02i1", PLAIN, b"K\x02\x85", b"U\x02ab")).tolist() == [97, 98]


@pytest.mark.parametrize(
    "content",
    [
        array_of(b"U\x02O8", PLAIN, b"K\x01\x85", b"U\x08abcdefgh"),  # bytes as pointers to objects
        array_of(b"U\x02i8", b"(K\x03U\x01<NU\x01aN}tb", b"K\x01\x85", b"U\x08abcdefgh"),  # fields
        array_of(b"U\x02i1", PLAIN, b"K\x7f\x85", b"U\x02ab"),  # more elements than bytes
        array_of(b"U\x02i1", PLAIN, b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86", b"U\x02ab"),  # -1 x -2
        array_of(b"U\x02i1", PLAIN, b"\x8a\x09\0\0\0\0\0\0\0\0\x01\x85", b"U\x02ab"),  # 2**64 elements
        array_of(b"U\x09f8,(9,)O4", PLAIN, b"K\x01\x85", b"U\x02ab"),
    ],
)
def test_an_array_that_would_reach_into_memory_is_refused(content):
    with pytest.raises(pickle.UnpicklingError, match="it holds"):
        read(content)


@pytest.mark.parametrize("name", ["numpy\nndarray", "numpy\ndtype", "numpy.core.multiarray\n_reconstruct"])
def test_our_own_functions_take_no_state(name):
    with pytest.raises(pickle.UnpicklingError, match="it sets the state of a"):
        read(b"\x80\x02c" + name.encode() + b"\n}U\x05firstK\x01sb.")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html>",
        b"\x80\x02N",  # no end
        b"\x80\x02]\x8c\xffab.",  # a short text
        b"\x80\x04B\xff\xff\xff\xffab.",  # 4 GB of bytes
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0fab.",  # an exabyte
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\x00\x00ab.",
        b"\x80\x02Q.",  # a persistent id
        b"\x80\x02\x82\x01.",  # an extension
        b"\x80\x02]]}s.",  # a list as a key
        b"\x80\x63N.",
    ],
)
def test_a_damaged_pickle_is_one_kind_of_error(content):
    with pytest.raises(pickle.UnpicklingError):
        read(content)


def test_a_large_number_of_a_memo_takes_no_memory():
    assert read(b"\x80\x02Nr\xff\xff\xff\x7f.") is None


def test_nothing_of_pickle_changes_for_others(monkeypatch):
    read(pickle.dumps(ARRAYS))
    assert pickle.loads(b"cbuiltins\nlen\n.") is builtins.len
