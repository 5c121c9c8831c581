"""Configs as accidents leave them: the shipped ones with values, structure and bytes changed at random."""

import copy
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from kd2.config import defaults_of, framework_of, load, read
from kd2.config.merging import leaves
from kd2.distill import ConfigError, DataError

CONFIGS = Path(__file__).parents[2] / "configs"
SECONDS = 10  # of CPU time that no input may take

# What people and programs write where something else belongs.
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 3, 256, 2**31, 2**63, -(2**64), 10**30, 0.0, -0.0, 0.5, 1e-30, -2.5, 1e308,
    float("inf"), float("-inf"), float("nan"), "", " ", "0", "1e-3", "nan", "1e999", "None", "(1, 2)", "[", "{}",
    "../../x", "kd2://bccd/imitation.yaml", "kd2://../x", "http://x/y.pth", "a=b", "fpn=backbone", "x" * 300,
    "\u00e9", "a\nb", [], [[]], [None], [0], [-1, -1], [1, 2, 3, 4], [3, 2, 1], ["a", 1], [[1], [2]], {}, {"": 1},
    {"a": {"b": []}}, {1: 2}, {"TYPE": "mgd"}, {"a.b": {}}, {"keys": {"TYPE": "mgd"}}, {"mgd": {"WEIGHT": -1}},
]  # fmt: skip
SNIPPETS = [
    b"&a ", b"*a", b"<<: *a\n", b"? ", b": ", b"- ", b"!!binary ", b"!!set {a}", b"!!python/name:os.system ", b"\t",
    b"'", b'"', b"{", b"}", b"[", b"]", b"#", b"|", b">", b"%", b"---\n", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00",
    b"\xc3", b"~", b"2020-01-01", b"0x" + b"f" * 40, b"9" * 5000, b"1:" * 50, b"[" * 300, b"_BASE_: run.yaml\n",
    b"SEED: 1\nSEED: 2\n",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One input of ``kd2.config.load``: the bytes of a file, and words of the command line."""

    text: bytes
    options: tuple[str, ...] = ()
    framework: str = "torchvision"


@cache
def shipped() -> list[tuple[str, dict[str, Any]]]:
    """Framework and content of every config of the package that can be loaded here, its bases merged."""
    found = []
    for path in sorted(CONFIGS.rglob("*.yaml")):
        loaded = read(str(path))
        framework = framework_of(loaded, str(path))
        if _defaults(framework) is not None:
            found.append((framework, loaded))
    return found


@cache
def _defaults(framework: str) -> Any:
    if framework != "detectron2":
        return defaults_of(framework)
    try:
        from detectron2.config import get_cfg

        from kd2.engine.detectron2 import add_d2_config
    except ModuleNotFoundError:
        return None
    return add_d2_config(get_cfg())


@st.composite
def mutated_config(draw: st.DrawFn) -> Case:
    """A shipped config with one to four changes."""
    framework, loaded = draw(st.sampled_from(shipped()))
    content = yaml.safe_load(yaml.safe_dump(_plain(loaded)))
    names = [name for name, _ in leaves(_defaults(framework))]
    options: list[str] = []
    for kind in draw(st.lists(st.sampled_from(["value", "value", "structure", "option"]), max_size=3)):
        name, odd = draw(st.sampled_from([*names, *map(".".join, _paths(content))])), draw(st.sampled_from(ODD))
        if kind == "value":
            _put(content, name, copy.deepcopy(odd))  # a later change may write into it
        elif kind == "structure":
            _restructure(content, name.split("."), draw(st.sampled_from(["drop", "wrap", "rename", "lift"])))
        else:
            options += [name, str(odd)]
    text = yaml.safe_dump(content, allow_unicode=True).encode()
    for _ in range(draw(st.integers(0, 2)) if draw(st.booleans()) else 0):
        start, length = draw(st.integers(0, len(text))), draw(st.integers(0, 30))
        text = text[:start] + draw(st.sampled_from([b"", *SNIPPETS])) + text[start + length :]
    return Case(text, tuple(options), framework)


def check_one(case: Case, folder: Path) -> str:
    """Load a case from a file in ``folder``: ``loaded`` or ``refused``; fails for anything but a user's error.

    A config that loads says the same when it is written and loaded again.
    """
    path, start = folder / "run.yaml", time.process_time()
    path.write_bytes(case.text)
    defaults = _defaults(case.framework) if case.framework == "detectron2" else None
    try:
        cfg = load(str(path), case.options, defaults)
    except (ConfigError, DataError) as error:
        outcome, text = "refused", str(error)
        assert text and "\n" not in text and len(text) < 2000, text
    else:
        outcome = "loaded"
        path.write_text(cfg.dump())
        assert yaml.safe_load(load(str(path), (), defaults).dump()) == yaml.safe_load(cfg.dump())
    assert time.process_time() - start < SECONDS, "too slow"
    return outcome


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(child) for key, child in value.items()}
    return [_plain(x) for x in value] if isinstance(value, (list, tuple)) else value


def _paths(node: dict, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The way to every key, groups among them."""
    for key, value in node.items():
        yield (*prefix, str(key))
        if isinstance(value, dict):
            yield from _paths(value, (*prefix, str(key)))


def _put(content: dict, name: str, value: Any) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        if not isinstance(content.get(parent), dict):
            content[parent] = {}
        content = content[parent]
    content[last] = value


def _restructure(content: dict, path: list[str], how: str) -> None:
    root = content
    for key in path[:-1]:
        if not isinstance(content.get(key), dict):
            return
        content = content[key]
    if path[-1] not in content:
        return
    value = content.pop(path[-1])
    if how == "wrap":
        content[path[-1]] = [value]
    elif how == "rename":
        content[path[-1][:-1]] = value
    elif how == "lift":
        root[path[-1]] = value
