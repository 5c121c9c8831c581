"""Taps: listening to the named places of a network, whose outputs the loss terms see.

Letters: N images, C channels, H x W map.
"""

import contextlib
from dataclasses import dataclass
from typing import Any, Callable, Iterator

from torch import Tensor, nn

from kd2.core.errors import nearest
from kd2.core.tap import Tap, TapError

Maps = dict[str, list[Tensor]]


@dataclass(frozen=True)
class MapSpec:
    """What the rehearsal saw of one level: channels, size (H, W) in cells, stride (y, x) in pixels a cell.

    A tap ``@vector`` is one cell of stride (1, 1), whatever the image: it has no place in it.
    """

    channels: int
    size: tuple[int, int]
    stride: tuple[float, float]


class _Stop(BaseException):
    """Ends a forward pass behind the last tap. Not an Exception: frameworks catch those and retry."""


class _Recording(dict):
    """The maps of one forward pass, and how often each tap fired."""

    def __init__(self, taps: list[Tap]):
        super().__init__({tap.alias: [] for tap in taps})
        self.calls = {tap.alias: 0 for tap in taps}
        self.versions: dict[str, list[int]] = {tap.alias: [] for tap in taps}

    def add(self, tap: Tap, output: Any) -> None:
        maps = tap.maps(output)
        self.calls[tap.alias] += 1
        self[tap.alias] += maps
        self.versions[tap.alias] += [x._version for x in maps]


class Taps:
    """All taps of one model.

    Hooks live only inside ``rehearse`` and ``listen``: nothing stays on the model, copies and pickles are clean.

    Args:
        model: the network whose modules are tapped.
        taps: parsed taps; aliases are unique.
        key: the config key to name in errors, for example ``KD.STUDENT.TAPS``.

    Raises:
        TapError: an unknown module path, a repeated alias.
    """

    def __init__(self, model: nn.Module, taps: list[Tap], key: str = "taps"):
        self.key = key
        self.taps = taps
        modules = dict(model.named_modules(remove_duplicate=False))
        aliases = [tap.alias for tap in taps]
        if len(set(aliases)) < len(aliases):
            raise TapError(f"{key}: aliases must differ, found {aliases}")
        for tap in taps:
            if tap.path not in modules:
                raise TapError(f"{key}: the model has no module {tap.path!r} (tap {tap.alias!r}); {nearest(tap.path, modules)}")
        self._modules = [modules[tap.path] for tap in taps]
        self.specs: dict[str, list[MapSpec]] = {}
        self._calls: dict[str, int] = {}

    def rehearse(self, run: Callable[[], Any], image_size: tuple[int, int]) -> dict[str, list[MapSpec]]:
        """Run the whole model once and learn calls, channels and strides of every tap.

        Args:
            run: calls the model on a blank batch (the caller sets eval mode and no_grad).
            image_size: padded (H, W) of that batch in pixels; strides are relative to it.

        Raises:
            TapError: a tap that does not fire, or fires with something that is not a map.
        """
        record = _Recording(self.taps)
        with self._hooks(record, total=None):
            run()
        silent = [alias for alias, calls in record.calls.items() if calls == 0]
        if silent:
            raise TapError(f"{self.key}: {silent} never fired in a full forward pass; such a module is no place for a tap")
        self._calls = dict(record.calls)
        self.specs = {tap.alias: [_spec(x, tap, image_size) for x in record[tap.alias]] for tap in self.taps}
        return self.specs

    @contextlib.contextmanager
    def listen(self, stop: bool = False) -> Iterator[Maps]:
        """Collect the maps of the forward pass inside the ``with`` block: ``{alias: [(N, C, H, W), ...]}``.

        Args:
            stop: end the forward pass right behind the last tap (for the teacher). The block then finishes normally.

        Raises:
            TapError: a tap fired another number of times than in the rehearsal, or its map was changed in place afterwards.
        """
        if not self._calls:
            raise TapError(f"{self.key}: rehearse() comes before listen()")
        record = _Recording(self.taps)
        try:
            with self._hooks(record, total=sum(self._calls.values()) if stop else None):
                yield record
        except _Stop:
            pass
        self._check(record)

    @contextlib.contextmanager
    def _hooks(self, record: _Recording, total: int | None) -> Iterator[None]:
        def hook_for(tap: Tap) -> Callable:
            def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
                record.add(tap, output)
                if total is not None and sum(record.calls.values()) == total:
                    raise _Stop

            return hook

        with contextlib.ExitStack() as stack:
            for tap, module in zip(self.taps, self._modules):
                stack.enter_context(module.register_forward_hook(hook_for(tap)))
            yield

    def _check(self, record: _Recording) -> None:
        for tap in self.taps:
            calls, rehearsed = record.calls[tap.alias], self._calls[tap.alias]
            if calls != rehearsed:
                raise TapError(f"{self.key}: tap {tap.alias!r} at {tap.path!r} fired {calls}x, {rehearsed}x in the rehearsal")
            now = [x._version for x in record[tap.alias]]
            if now != record.versions[tap.alias]:
                raise TapError(
                    f"{self.key}: the map of tap {tap.alias!r} at {tap.path!r} was changed in place by a later module "
                    "(an in-place activation?); tap behind that module instead"
                )


def _spec(x: Tensor, tap: Tap, image_size: tuple[int, int]) -> MapSpec:
    size = (x.shape[2], x.shape[3])
    if tap.layout == "vector":
        return MapSpec(x.shape[1], size, (1.0, 1.0))
    return MapSpec(x.shape[1], size, (image_size[0] / size[0], image_size[1] / size[1]))
