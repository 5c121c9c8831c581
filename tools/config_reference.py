"""Print the reference of all config keys, made of their declarations: kd2/config/keys and the losses' constructors.

python tools/config_reference.py > docs/config.md
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kd2.config.keys import KEYS, detectron2, shared, timm, torchvision
from kd2.distill.values import expected
from kd2.losses import loss_types
from kd2.losses.blocks import COMMON_KEYS
from kd2.losses.options import defaults_of, options_of
from kd2.losses.registry import LOSSES

TABLES = {"detectron2": detectron2, "torchvision": torchvision, "timm": timm}
HEAD = """# Config keys

Made by `python tools/config_reference.py > docs/config.md`; a test compares. Every key stands here with its default,
the values that it may have, and the frameworks (and, where not all of them do, the architectures) that read it. A key
that nobody reads, a value out of range, a number that is not finite and a key that stands twice are refused by name.

With `FRAMEWORK: detectron2` Detectron2's own keys are there too, with Detectron2's defaults, see
[its reference](https://detectron2.readthedocs.io/en/latest/modules/config.html); the last table says what kd2 checks
of them.
"""
COMMON = """Every block has these keys. `SHARE`: the norm of the loss's gradient at each tapped map of the student over
that of the student's own losses there; `ADAPTER_LR`: the learning rate of what the loss trains beside the student over
the run's, 1 beside a `WEIGHT`.
"""


def texts(module: Any) -> dict[str, str]:
    """Name of every key that the source of ``module`` declares, and the comment ``#:`` above it."""
    found = re.findall(r'((?:^ *#:.*\n)+) *Key\(\s*"([\w.]+)"', inspect.getsource(module), re.MULTILINE)
    return {name: " ".join(comment.replace("#:", "").split()) for comment, name in found}


def key_rows() -> Iterator[list[str]]:
    """A row a key, in the order of the name; one that frameworks declare differently has several."""
    common, found = texts(shared), {}
    for framework, keys in KEYS.items():
        meaning = common | texts(TABLES[framework])
        for key in keys.values():
            found.setdefault(id(key), (key, meaning[key.name], []))[2].append(framework)
    for key, meaning, frameworks in sorted(found.values(), key=lambda item: item[0].name):
        readers = ", ".join(frameworks) + (f": {', '.join(key.readers)}" if key.readers else "")
        yield [f"`{key.name}`", code(key.default), expected(key.kind), readers, meaning]


def option_rows(kind: str) -> Iterator[list[str]]:
    """A row an option of the loss ``kind``."""
    entry = LOSSES.get(kind)
    meaning, defaults = arguments(inspect.getdoc(entry.loss) or ""), defaults_of(entry.loss) | dict(entry.presets)
    for name, hint in options_of(entry.loss).items():
        default = code(defaults[name]) if name in defaults else "required"
        yield [f"`{name.upper()}`", default, expected(hint), meaning.get(name, "")]


def arguments(text: str) -> Mapping[str, str]:
    """The section ``Args`` of a docstring: name -> its text on one line."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)*)", text, re.MULTILINE)
    items = re.findall(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(words.split()) for names, words in items for name in names.split(", ")}


def reference() -> str:
    """The whole text of docs/config.md."""
    parts = [HEAD, "## Keys\n", table(["key", "default", "values", "read by", "meaning"], key_rows())]
    common = [[f"`{name}`", expected(hint)] for name, hint in COMMON_KEYS.items()]
    parts += ["\n## Losses: the blocks of `KD.LOSSES`\n", COMMON]
    parts.append(table(["key", "values"], common))
    for kind in loss_types():
        parts += [
            f"\n### `TYPE: {kind}`\n",
            f"Without a `WEIGHT`, `SHARE` is {LOSSES.get(kind).share:g} and `ADAPTER_LR` "
            f"{LOSSES.get(kind).adapter_lr:g} where they are not given.\n",
        ]
        parts += [table(["option", "default", "values", "meaning"], option_rows(kind))]
    checks = [[f"`{name}`", expected(hint)] for name, hint in sorted(detectron2.CHECKS.items())]
    parts += ["\n## Detectron2's own keys that are checked\n", table(["key", "values"], checks)]
    return "\n".join(parts) + "\n"


def code(value: Any) -> str:
    """A default as YAML reads it."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "a list a level" if len(value) > 1 else f"`{value}`"
    return f"`{round(value, 4) if isinstance(value, float) else value!r}`"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(row)} |".replace("``", "`") for row in cells)


if __name__ == "__main__":
    sys.stdout.write(reference())
