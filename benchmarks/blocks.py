"""Blocks of a page of docs that a command writes: ``<!-- COMMAND: NAME -->`` begins one, ``<!-- end of COMMAND -->``
ends it."""

import re

from kd2.distill import ConfigError


def replaced(text: str, command: str, name: str, block: str) -> str:
    """``text`` with another block between the marks of a name; raises ConfigError where there are none."""
    mark, end = f"<!-- {command}: {name} -->", f"<!-- end of {command} -->"
    pattern = re.compile(rf"(?<={re.escape(mark)}\n).*?(?={re.escape(end)})", re.DOTALL)
    if not pattern.search(text):
        raise ConfigError(f"the page has no block {mark} ... {end}")
    return pattern.sub(lambda _: f"\n{block}\n\n" if block else "", text, count=1)
