"""Labeled and unlabeled samples in one batch."""

import functools
import itertools

import pytest
import torch

from kd2.data.stream import Batches, Joined, Keyed, shuffled, train_loader, unlabeled_share
from kd2.distill import ConfigError

COUNT, EXTRA = 6, 9
ORDER = functools.partial(shuffled, COUNT, 5)


def wide(index: int) -> bool:
    return index % 3 == 0


def joined(size: int = 2, more: int = 3, start: int = 0, **settings) -> Joined:
    return Joined(Batches(ORDER, size, start, **settings), COUNT, EXTRA, more, seed=5)


def places(batches, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(batches, count))


def noisy(record: dict) -> tuple[int, float]:
    return record["number"], float(torch.rand(()))


def loaded(workers: int, start: int = 0, count: int = 5) -> list:
    data = Keyed([{"number": i} for i in range(COUNT + EXTRA)], noisy, seed=5)
    return places(train_loader(data, joined(start=start), workers), count)


def test_a_batch_holds_labeled_places_then_unlabeled_ones():
    for batch in places(joined(), 12):
        assert [index >= COUNT for _, index in batch] == [False, False, True, True, True]


def test_the_labeled_places_are_those_without_unlabeled_ones():
    assert [batch[:2] for batch in places(joined(), 12)] == places(Batches(ORDER, 2), 12)


def test_an_epoch_of_the_second_stream_has_every_unlabeled_record_once():
    seen = [index for batch in places(joined(), 3) for _, index in batch[2:]]
    assert sorted(seen) == list(range(COUNT, COUNT + EXTRA))


def test_the_second_stream_has_an_order_of_its_own():
    batches = Joined(Batches(functools.partial(shuffled, EXTRA, 5), 3), EXTRA, EXTRA, 3, seed=5)
    first, second = zip(*((batch[:3], batch[3:]) for batch in places(batches, 3)))
    assert [i for b in first for _, i in b] != [i - EXTRA for b in second for _, i in b]


def test_no_position_is_in_both_streams():
    positions = [position for batch in places(joined(), 40) for position, _ in batch]
    assert len(set(positions)) == len(positions)


def test_draws_do_not_depend_on_the_workers():
    assert loaded(0) == loaded(2)


def test_after_a_resume_the_batches_go_on_as_before():
    assert loaded(0, start=3, count=2) == loaded(0)[3:]


def test_the_start_can_be_moved_later():
    batches = joined()
    batches.start = 4
    assert batches.start == 4 and places(batches, 2) == places(joined(), 6)[4:]


def test_two_ranks_share_what_one_process_sees():
    shares = [places(joined(1, 2, rank=rank, ranks=2), 6) for rank in range(2)]
    together = [sorted(a + b) for a, b in zip(*shares)]
    assert together == [sorted(batch) for batch in places(joined(2, 4), 6)]


def test_each_part_of_a_batch_is_of_one_group():
    for batch in places(joined(group_of=wide), 20):
        assert len({wide(i) for _, i in batch[:2]}) == len({wide(i) for _, i in batch[2:]}) == 1


def test_the_share_of_a_process():
    assert (unlabeled_share(["more"], 8, 2), unlabeled_share([], 0, 2)) == (4, 0)


@pytest.mark.parametrize(("names", "images"), [(["more"], 0), ([], 8)])
def test_one_key_without_the_other_is_refused(names, images):
    text = r"^KD.UNLABELED.DATASETS is \[.*\] and KD.UNLABELED.IMS_PER_BATCH is \d, expected both or none$"
    with pytest.raises(ConfigError, match=text):
        unlabeled_share(names, images, 1)


@pytest.mark.parametrize("images", [3, -2])
def test_images_that_the_processes_cannot_share_are_refused(images):
    text = f"^KD.UNLABELED.IMS_PER_BATCH is {images}, expected a multiple of 2 processes$"
    with pytest.raises(ConfigError, match=text):
        unlabeled_share(["more"], images, 2)
