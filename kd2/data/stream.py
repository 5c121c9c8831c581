"""An endless stream of training batches that can start anywhere.

Sample number p of the stream is always the same image with the same augmentation, whatever the number of workers or
ranks and wherever training was resumed: its draws are keyed by (seed, p).
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from kd2.data.seeding import seeded
from kd2.distill import ConfigError, DataError

Place = tuple[int, int]  # (position in the stream, index of the record)

# Positions of a second stream begin here, out of reach of the first.
_SECOND = 1 << 40


def shuffled(count: int, seed: int) -> Iterator[int]:
    """Indices 0..count-1 for ever, a new permutation every epoch."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(count, generator=generator).tolist()


class Batches:
    """Batches of places in the stream, those of one rank.

    Args:
        indices: called anew for every pass, gives the endless order of records.
        batch_size: samples a batch on this rank.
        start: batches to leave out at the beginning (the iterations already trained).
        group_of: kind of a record; a batch holds one kind only (landscape and portrait, say). None: no grouping.
        rank, ranks: this rank takes positions rank, rank + ranks, ...
    """

    def __init__(
        self,
        indices: Callable[[], Iterable[int]],
        batch_size: int,
        start: int = 0,
        group_of: Callable[[int], Any] | None = None,
        rank: int = 0,
        ranks: int = 1,
    ):
        self.indices, self.batch_size, self.start = indices, batch_size, start
        self.group_of, self.rank, self.ranks = group_of, rank, ranks

    def __iter__(self) -> Iterator[list[Place]]:
        # Without groups a place tells its batch: a run of days is resumed without making all earlier batches.
        whole, rest = (0, self.start) if self.group_of else (self.start, 0)
        first = whole * self.batch_size * self.ranks + self.rank
        places = itertools.islice(enumerate(self.indices()), first, None, self.ranks)
        return itertools.islice(self._grouped(places), rest, None)

    def _grouped(self, places: Iterable[Place]) -> Iterator[list[Place]]:
        waiting: dict[Any, list[Place]] = {}
        for place in places:
            group = waiting.setdefault(self.group_of(place[1]) if self.group_of else None, [])
            group.append(place)
            if len(group) == self.batch_size:
                yield group[:]
                group.clear()


class Joined:
    """Batches of labeled places with places of unlabeled records behind them, those of one rank.

    The labeled places, and so their draws, are those of ``labeled`` alone. Setting ``start`` moves both streams.

    Args:
        labeled: its ``group_of``, if any, knows all records; each part of a batch is of one kind.
        count: labeled records; unlabeled ones have the indices from ``count`` on.
        extra: unlabeled records.
        batch_size: unlabeled samples a batch on this rank.
        seed: their order is drawn from it, independent of ``shuffled(count, seed)``.
    """

    def __init__(self, labeled: Batches, count: int, extra: int, batch_size: int, seed: int):
        own_seed = int(np.random.SeedSequence((seed, _SECOND)).generate_state(1)[0])

        def order() -> Iterator[int]:
            return (count + index for index in shuffled(extra, own_seed))

        self.labeled = labeled
        rank, ranks = labeled.rank, labeled.ranks
        self.unlabeled = Batches(order, batch_size, labeled.start, labeled.group_of, rank, ranks)

    @property
    def start(self) -> int:
        """Batches to leave out at the beginning."""
        return self.labeled.start

    @start.setter
    def start(self, batches: int) -> None:
        self.labeled.start = self.unlabeled.start = batches

    def __iter__(self) -> Iterator[list[Place]]:
        for places, more in zip(self.labeled, self.unlabeled):
            yield places + [(_SECOND + position, index) for position, index in more]


def unlabeled_share(names: Sequence[str], images: int, ranks: int) -> int:
    """Unlabeled images a batch on each of ``ranks`` processes, from ``KD.UNLABELED``; 0 when there are none.

    Raises:
        ConfigError: DATASETS without IMS_PER_BATCH or the reverse, or images that the processes cannot share.
    """
    if bool(names) != bool(images):
        raise ConfigError(
            f"KD.UNLABELED.DATASETS is {list(names)} and KD.UNLABELED.IMS_PER_BATCH is {images}, expected both or none"
        )
    if images < 0 or images % ranks:
        raise ConfigError(f"KD.UNLABELED.IMS_PER_BATCH is {images}, expected a multiple of {ranks} processes")
    return images // ranks


class Keyed(Dataset):
    """Records seen through a mapper whose random draws are keyed by the place in the stream.

    Raises:
        DataError: the mapper failed on a record; names its file.
    """

    def __init__(self, records: Sequence[dict], mapper: Callable[[dict], Any], seed: int):
        self.records, self.mapper, self.seed = records, mapper, seed

    def __getitem__(self, place: Place) -> Any:
        position, index = place
        with seeded(self.seed, position):
            return mapped(self.mapper, self.records[index])


def mapped(mapper: Callable[[dict], Any], record: dict) -> Any:
    """``mapper(record)``; raises DataError naming the record's file when it cannot be read."""
    try:
        return mapper(record)
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{record.get('file_name', record)}: cannot be used: {error}") from error


def aspect(record: dict) -> bool:
    """Whether a record with ``width`` and ``height`` is wider than high; the usual ``group_of``."""
    return record["width"] > record["height"]


def train_loader(dataset: Dataset, batches: Batches | Joined, workers: int, collate: Callable = list) -> DataLoader:
    """A loader over ``Keyed`` data; batches are lists of samples unless ``collate`` says otherwise."""
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        # The global generator must not depend on how often a loader was made.
        generator=torch.Generator().manual_seed(0),
    )
