"""One progress bar over the whole quick start."""

import contextlib
from collections.abc import Iterator, Mapping

import lightning
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

_FORMAT = "{desc:<22} |{bar}| {percentage:3.0f} %  {elapsed} elapsed, {remaining} left of everything"


class Progress:
    """A bar over all phases; leaving its ``with`` block closes it.

    Args:
        phases: name -> expected duration; only the proportions matter. The time left comes from the pace so far.
    """

    def __init__(self, phases: Mapping[str, float]):
        self.phases = dict(phases)
        self.names = list(phases)
        total = sum(phases.values())
        self.bar = tqdm(total=total, bar_format=_FORMAT, smoothing=0, mininterval=0.5, dynamic_ncols=True)
        self.begin, self.length = 0.0, 0.0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Inside the block ``name`` is under way; behind it, done."""
        place = self.names.index(name)
        self.begin, self.length = sum(list(self.phases.values())[:place]), self.phases[name]
        self.bar.set_description(f"{place + 1}/{len(self.names)} {name}")
        yield
        self.at(1.0)

    def at(self, share: float) -> None:
        """``share`` (0 to 1) of the phase is done."""
        self.bar.update(self.begin + share * self.length - self.bar.n)


class PhaseBar(ProgressBar):
    """Lightning's steps on the bar of the whole."""

    def __init__(self, progress: Progress):
        super().__init__()
        self.progress = progress

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: object) -> None:
        """Move the bar."""
        self.progress.at(trainer.global_step / trainer.max_steps)
