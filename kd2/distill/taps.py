"""Taps: what named places of a network give or take, captured for the losses.

Letters: N images, C channels, H x W map.
"""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kd2.distill.errors import nearest
from kd2.distill.tap import Tap, TapError, refuse_repeated

Maps = dict[str, list[Tensor]]


@dataclass(frozen=True)
class FeatureSpec:
    """What the probe saw of one level: channels, size (H, W) in cells, stride (y, x) in pixels a cell.

    A tap ``@vector`` is one cell of stride (1, 1), whatever the image: it has no place in it.
    """

    channels: int
    size: tuple[int, int]
    stride: tuple[float, float]


class _Stop(BaseException):
    """Ends a forward pass behind the last tap. Not an Exception: frameworks catch those and retry."""


class Captured(dict):
    """``Maps`` of one forward pass, how often each tap fired, and the tensors of the network behind the maps.

    The maps of taps with one alias follow each other in the order of the taps, whichever fires first.
    """

    def __init__(self, taps: list[Tap]):
        super().__init__({tap.alias: [] for tap in taps})
        self.taps = taps
        # By the number of the tap: hooks add inside compiled networks, where a tap cannot be a key.
        self.calls, self._counts = [0] * len(taps), [0] * len(taps)
        self.sources: Maps = {tap.alias: [] for tap in taps}
        self._leading: dict[str, list[int]] = {tap.alias: [] for tap in taps}
        self.versions: dict[str, list[int]] = {tap.alias: [] for tap in taps}
        self.names: dict[str, list[str]] = {tap.alias: [] for tap in taps}

    def add(self, number: int, output: Any) -> None:
        """Take in one call's output of the module of tap ``number``."""
        tap = self.taps[number]
        maps = tap.maps(output)
        end = sum(n for t, n in zip(self.taps[: number + 1], self._counts) if t.alias == tap.alias)
        self.calls[number] += 1
        self._counts[number] += len(maps)
        self[tap.alias][end:end] = maps
        self.sources[tap.alias][end:end] = tap.select(output)
        self._leading[tap.alias][end:end] = [tap.leading] * len(maps)
        self.versions[tap.alias][end:end] = [x._version for x in maps]
        self.names[tap.alias][end:end] = tap.names(output)

    def inside_maps(self, alias: str, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients at the sources of an alias without those of tokens that stand before the map's."""
        return [x if x is None else x[:, n:] if n else x for x, n in zip(gradients, self._leading[alias], strict=True)]


class Taps:
    """All taps of one model.

    Hooks live only inside ``probe`` and ``capture``: nothing stays on the model, copies and pickles are clean.

    Args:
        model: the network whose modules are tapped.
        taps: parsed taps; several may have one alias.
        key: the config key to name in errors, for example ``KD.STUDENT.TAPS``.

    Raises:
        TapError: an unknown module path, a tap that stands there twice.
    """

    def __init__(self, model: nn.Module, taps: list[Tap], key: str = "taps"):
        self.key = key
        self.taps = taps
        # torch.compile(model) holds the model in ``_orig_mod``; its paths stay those of the model.
        modules = dict(getattr(model, "_orig_mod", model).named_modules(remove_duplicate=False))
        refuse_repeated(taps, key)
        for tap in taps:
            if tap.path not in modules:
                raise TapError(
                    f"{key}: the model has no module {tap.path!r} (tap {tap.alias!r}); {nearest(tap.path, modules)}"
                )
        self._modules = [modules[tap.path] for tap in taps]
        self.specs: dict[str, list[FeatureSpec]] = {}
        self._calls: list[int] = []
        self._names: dict[str, list[str]] = {}

    def probe(self, run: Callable[[], Any], image_size: tuple[int, int]) -> dict[str, list[FeatureSpec]]:
        """Run the whole model once and learn calls, channels and strides of every tap.

        Args:
            run: calls the model on a blank batch (the caller sets eval mode and no_grad).
            image_size: padded (H, W) of that batch in pixels; strides are relative to it.

        Raises:
            TapError: a tap that does not fire, or fires with something that is not a map.
        """
        record = Captured(self.taps)
        with self._hooks(record, total=None):
            run()
        silent = [tap.alias for tap, calls in zip(self.taps, record.calls) if calls == 0]
        if silent:
            raise TapError(
                f"{self.key}: {silent} never fired in a full forward pass; such a module is no place for a tap"
            )
        self._calls, self._names = list(record.calls), record.names
        self.specs = {
            alias: [_spec(x, source, image_size) for x, source in zip(maps, record.sources[alias], strict=True)]
            for alias, maps in record.items()
        }
        return self.specs

    def on(self, model: nn.Module) -> "Taps":
        """The same taps, with what the probe saw, on another model of the same architecture."""
        other = Taps(model, self.taps, self.key)
        other.specs, other._calls, other._names = self.specs, self._calls, self._names
        return other

    def level_names(self, alias: str) -> list[str]:
        """What the maps of a tap are called in the log: the keys of what its module gives, or numbers."""
        names = self._names[alias]
        return names if len(set(names)) == len(names) else [str(level) for level in range(len(names))]

    @contextlib.contextmanager
    def capture(self, stop: bool = False) -> Iterator[Captured]:
        """Collect the maps of the forward pass inside the ``with`` block: ``{alias: [(N, C, H, W), ...]}``.

        Args:
            stop: end the forward pass right behind the last tap (for the teacher). The block then finishes normally.

        Raises:
            TapError: a tap fired another number of times than in the probe, or its map was changed in place afterwards.
        """
        if not self._calls:
            raise TapError(f"{self.key}: probe() comes before capture()")
        record = Captured(self.taps)
        try:
            with self._hooks(record, total=sum(self._calls) if stop else None):
                yield record
        except _Stop:
            pass
        self._check(record)

    @contextlib.contextmanager
    def _hooks(self, record: Captured, total: int | None) -> Iterator[None]:
        def add(number: int, maps: Any) -> None:
            record.add(number, maps)
            if total is not None and sum(record.calls) == total:
                raise _Stop

        with contextlib.ExitStack() as stack:
            for number, (tap, module) in enumerate(zip(self.taps, self._modules)):
                stack.enter_context(_hook(module, tap, functools.partial(add, number)))
            yield

    def _check(self, record: Captured) -> None:
        for tap, calls, probed in zip(self.taps, record.calls, self._calls):
            if calls != probed:
                raise TapError(f"{self.key}: tap {tap.alias!r} at {tap.path!r} fired {calls}x, {probed}x in the probe")
            now = [x._version for x in record[tap.alias]]
            if now != record.versions[tap.alias]:
                raise TapError(
                    f"{self.key}: the map of tap {tap.alias!r} at {tap.path!r} was changed in place by a later module "
                    "(an in-place activation?); tap behind that module instead"
                )


def _hook(module: nn.Module, tap: Tap, add: Callable[[Any], None]) -> contextlib.AbstractContextManager:
    """Give what ``tap`` listens to in every call of its module to ``add``, inside the context."""

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if not inputs:
            raise TapError(f"tap {tap.alias!r}: module {tap.path!r} is given its input by name; tap an output")
        add(inputs[0])

    def behind(_module: nn.Module, _inputs: Any, output: Any) -> None:
        add(output)

    return module.register_forward_pre_hook(before) if tap.of_input else module.register_forward_hook(behind)


def _spec(x: Tensor, source: Tensor, image_size: tuple[int, int]) -> FeatureSpec:
    size = (x.shape[2], x.shape[3])
    if source.dim() == 2:  # a vector
        return FeatureSpec(x.shape[1], size, (1.0, 1.0))
    return FeatureSpec(x.shape[1], size, (image_size[0] / size[0], image_size[1] / size[1]))


@dataclass(frozen=True)
class Probe:
    """How to learn the shapes at a model's taps: ``run`` is one full forward pass on a blank batch.

    ``image_size`` is the padded (H, W) of that batch in pixels; strides are relative to it.
    """

    run: Callable[[], Any]
    image_size: tuple[int, int]


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module's mode and the random state are as before."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.eval()
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def probed(model: nn.Module, taps: Iterable[str], probe: Probe, key: str) -> Taps:
    """Taps of ``model``, written as in a config, whose shapes ``probe`` showed.

    Raises:
        TapError: see ``Taps``; ``key`` is the config key that its text names.
    """
    capturing = Taps(model, [Tap.parse(text) for text in taps], key)
    with eval_mode(model):
        capturing.probe(probe.run, probe.image_size)
    return capturing
