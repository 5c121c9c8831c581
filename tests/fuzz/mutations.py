"""Small damages of a good input: values of other kinds in a tree, other bytes in a file."""

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 255, 256, 65536, -(2**31), 2**31, 2**63, 10**30, 0.0, 0.5, -0.5, 1e-30, 1e18, 1e300,
    float("nan"), float("inf"), -float("inf"), "", " ", "0", "1", "nan", "text", "../../x", "/etc/passwd", "a\0b",
    "\ud800", "ä" * 300, [], [[]], [None], [1], ["a"], [0, 0, 0, 0], [1e18, 1, 5, 1e18, 3, 3],
    [[1e18, 1, 5, 1e18, 3, 3]], {}, {"a": 1}, {"size": [10**6, 10**6], "counts": "0" * 50},
    {"size": [8, 8], "counts": [64]}, {"size": [8, 8], "counts": [-5, 10**9]}, {"size": [8, 8], "counts": "\x7f" * 9},
    {"size": None, "counts": None},
)  # fmt: skip


def damaged_tree(tree: Any, rng: random.Random, odd: Sequence[Any] = ODD) -> Any:
    """A copy of nested dicts and lists in which one to four places hold another value, are gone, or stand twice."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 4)):
        places = list(_places(tree))
        if not places:
            break
        holder, key = rng.choice(places)
        action = rng.choice(("replace", "replace", "replace", "remove", "repeat", "swap"))
        if action == "remove":
            del holder[key]
        elif action == "repeat" and isinstance(holder, list):
            holder.append(copy.deepcopy(holder[key]))
        elif action == "swap":
            other, at = rng.choice(places)
            holder[key] = copy.deepcopy(other[at])
        else:
            holder[key] = copy.deepcopy(rng.choice(odd))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    for key in keys:
        yield tree, key
        yield from _places(tree[key])


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    """Bytes cut off, zeroed, changed, repeated or put in."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 3)):
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((1, 2, 8, 100, 10_000)))
        action = rng.choice(("cut", "zero", "change", "repeat", "insert", "drop"))
        if action == "cut":
            del content[start:]
        elif action == "zero":
            content[start:end] = bytes(end - start)
        elif action == "change":
            content[start:end] = rng.randbytes(end - start)
        elif action == "repeat":
            content[start:start] = content[start:end] * rng.choice((1, 3))
        elif action == "insert":
            content[start:start] = rng.randbytes(rng.choice((1, 4, 64)))
        else:
            del content[start:end]
    return bytes(content)
