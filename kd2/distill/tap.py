"""A tap: one named place in a network, and how its output becomes maps.

Letters: N images, C channels, H x W map, L tokens.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kd2.distill.errors import ConfigError, nearest

_GRAMMAR = re.compile(
    r"(?P<alias>\w+)=(?:(?P<path>[\w.]*)|input\((?P<behind>[\w.]+)\))(?::(?P<keys>\w+(?:,\w+)*))?"
    r"(?:@(?P<layout>nchw|nhwc|vector|tokens)(?:\+(?P<prefix>\d+))?(?:/(?P<grid>\d+x\d+))?)?"
)


class TapError(ConfigError):
    """A tap that does not exist, fired the wrong number of times, or whose map was overwritten."""


@dataclass(frozen=True)
class Tap:
    """One place to capture, written ``alias=module.path[:key,key][@layout]`` in a config.

    ``keys`` choose the entries of a dict or list output, in this order; without keys every map of the output counts.
    ``layout`` is ``nchw`` (default), ``nhwc``, ``vector`` for (N, C), which becomes a map of one cell, or ``tokens``
    for (N, L, C); ``@tokens+1/14x20`` skips one leading class token and folds the rest into 14 rows of 20. Without a
    grid the tokens must form a square. An empty path is the network itself: ``logits=@vector``. What no module gives,
    such as a sum, is the first input of the next one: ``feature=input(head.predictor)``. Taps with one alias are read
    together, their maps in the order of the taps: ``dense=head.cls_score`` and ``dense=head.bbox_pred``.

    >>> Tap.parse("fpn=backbone:p3,p4").keys
    ('p3', 'p4')
    """

    alias: str
    path: str
    keys: tuple[str, ...] = ()
    layout: str = "nchw"
    prefix: int = 0
    grid: tuple[int, int] | None = None
    of_input: bool = False

    @classmethod
    def parse(cls, text: str) -> "Tap":
        """Raises TapError when ``text`` does not follow the grammar above."""
        match = _GRAMMAR.fullmatch(text.replace(" ", ""))
        if match is None:
            raise TapError(
                f"tap {text!r} is not of the form alias=module.path[:key,key][@nchw|nhwc|vector|tokens[+prefix][/HxW]]"
                ", where the path may be input(module.path)"
            )
        grid = match["grid"]
        return cls(
            alias=match["alias"],
            path=match["behind"] or match["path"],
            keys=tuple(match["keys"].split(",")) if match["keys"] else (),
            layout=match["layout"] or "nchw",
            prefix=int(match["prefix"] or 0),
            grid=_grid(grid) if grid else None,
            of_input=bool(match["behind"]),
        )

    def maps(self, output: Any) -> list[Tensor]:
        """The tapped (N, C, H, W) maps of one call's output, levels in a fixed order."""
        return [self._to_nchw(x) for x in self.select(output)]

    def names(self, output: Any) -> list[str]:
        """What the tapped tensors of one call's output are called there; of a sequence, or one tensor, numbers."""
        if self.keys or not isinstance(output, dict):
            return list(self.keys) or [str(level) for level in range(len(self.select(output)))]
        return [str(key) for key in output]

    def select(self, output: Any) -> list[Tensor]:
        """The tapped tensors of one call's output in the layout that the module gave them."""
        if isinstance(output, Tensor):
            if self.keys:
                raise TapError(
                    f"tap {self.alias!r}: module {self.path!r} returns one tensor, it has no keys {self.keys}"
                )
            return [output]
        named = dict(output) if isinstance(output, dict) else {str(i): x for i, x in enumerate(output)}
        for key in self.keys:
            if key not in named:
                raise TapError(f"tap {self.alias!r}: module {self.path!r} returns no {key!r}; {nearest(key, named)}")
        chosen = [named[k] for k in self.keys] if self.keys else list(named.values())
        wrong = [type(x).__name__ for x in chosen if not isinstance(x, Tensor)]
        if wrong:
            raise TapError(f"tap {self.alias!r}: module {self.path!r} returns {wrong} where maps are expected")
        return chosen

    @property
    def leading(self) -> int:
        """How many tokens stand before those of the map, class tokens for example."""
        return self.prefix if self.layout == "tokens" else 0

    def _to_nchw(self, x: Tensor) -> Tensor:
        if self.layout == "vector":
            if x.dim() != 2:
                raise TapError(f"tap {self.alias!r} at {self.path!r}: a vector is (N, C), found shape {tuple(x.shape)}")
            return x[:, :, None, None]
        if self.layout == "tokens":
            if x.dim() != 3:
                raise TapError(
                    f"tap {self.alias!r} at {self.path!r}: tokens are (N, L, C), found shape {tuple(x.shape)}"
                )
            x = x[:, self.prefix :]
            rows, columns = self.grid or (math.isqrt(x.shape[1]),) * 2
            if rows * columns != x.shape[1]:
                raise TapError(
                    f"tap {self.alias!r} at {self.path!r}: {x.shape[1]} tokens after a prefix of {self.prefix} are not "
                    f"{rows} x {columns}; give prefix and grid as @tokens+1/14x20"
                )
            return x.transpose(1, 2).unflatten(2, (rows, columns))
        if x.dim() != 4:
            raise TapError(
                f"tap {self.alias!r} at {self.path!r}: a map is (N, C, H, W), found shape {tuple(x.shape)}; "
                "for (N, L, C) write @tokens, for (N, C) write @vector"
            )
        return x.permute(0, 3, 1, 2) if self.layout == "nhwc" else x


def refuse_repeated(taps: list[Tap], key: str) -> None:
    """Raises TapError when a tap stands in a list twice; several places may have one alias."""
    repeated = [f"{tap.alias}={tap.path}" for i, tap in enumerate(taps) if tap in taps[:i]]
    if repeated:
        raise TapError(f"{key}: {repeated[0]} stands there twice")


def _grid(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)
