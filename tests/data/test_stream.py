"""The endless stream of batches."""

import functools
import itertools

import pytest
import torch
from PIL import Image

from kd2.data.stream import Batches, Keyed, aspect, mapped, shuffled, train_loader
from kd2.distill import DataError

COUNT = 10
ORDER = functools.partial(shuffled, COUNT, 5)


def wide(index: int) -> bool:
    """Records 0, 3, 6, 9 are wide."""
    return index % 3 == 0


def places(batches: Batches, count: int) -> list[list[tuple[int, int]]]:
    return list(itertools.islice(batches, count))


def noisy(record: dict) -> tuple[int, float]:
    """A mapper that draws: what it returns depends on the record and on the random state."""
    return record["number"], float(torch.rand(()))


def loaded(workers: int, start: int = 0, count: int = 6) -> list:
    data = Keyed([{"number": i} for i in range(COUNT)], noisy, seed=5)
    loader = train_loader(data, Batches(ORDER, 2, start, group_of=wide), workers)
    return list(itertools.islice(loader, count))


def test_an_epoch_has_every_index_once():
    assert sorted(itertools.islice(ORDER(), COUNT)) == list(range(COUNT))


def test_the_second_epoch_has_another_order():
    order = list(itertools.islice(ORDER(), 2 * COUNT))
    assert order[:COUNT] != order[COUNT:] and sorted(order[COUNT:]) == list(range(COUNT))


def test_another_seed_has_another_order():
    assert list(itertools.islice(shuffled(COUNT, 6), COUNT)) != list(itertools.islice(ORDER(), COUNT))


def test_without_groups_batches_follow_the_order():
    order = list(itertools.islice(ORDER(), 8))
    assert places(Batches(ORDER, 4), 2) == [list(enumerate(order))[:4], list(enumerate(order))[4:]]


def test_a_batch_holds_one_group_only():
    assert all(len({wide(index) for _, index in batch}) == 1 for batch in places(Batches(ORDER, 3, group_of=wide), 20))


def test_grouping_loses_no_place():
    seen = sorted(p for batch in places(Batches(ORDER, 3, group_of=wide), 40) for p, _ in batch)
    assert seen[:100] == list(range(100))


@pytest.mark.parametrize("group_of", [None, wide])
@pytest.mark.parametrize("start", [1, 7])
def test_starting_late_equals_skipping(group_of, start):
    skipped = places(Batches(ORDER, 2, group_of=group_of), start + 5)[start:]
    assert places(Batches(ORDER, 2, start, group_of), 5) == skipped


@pytest.mark.parametrize("ranks", [2, 3])
def test_the_ranks_together_cover_the_stream_once(ranks):
    shares = [places(Batches(ORDER, 2, rank=rank, ranks=ranks), 12 // ranks) for rank in range(ranks)]
    seen = [place for share in shares for batch in share for place in batch]
    assert sorted(seen) == list(itertools.islice(enumerate(ORDER()), 24))


def test_a_second_pass_repeats_the_first():
    batches = Batches(ORDER, 2, start=3)
    assert places(batches, 4) == places(batches, 4)


def test_batches_do_not_depend_on_the_number_of_workers():
    assert loaded(workers=2) == loaded(workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_loader_repeats_the_same_draws(workers):
    assert loaded(workers, start=2, count=4) == loaded(0)[2:]


def test_one_record_is_augmented_anew_every_epoch():
    seen = [sample for batch in loaded(0, count=30) for sample in batch if sample[0] == 4]
    assert len(set(seen)) == len(seen) > 2


def test_loading_does_not_touch_the_random_state_of_training():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    loaded(workers=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_aspect_tells_wide_from_high():
    assert aspect({"width": 5, "height": 4}) and not aspect({"width": 4, "height": 5})


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no picture")
    return {"file_name": str(path)}


def opened(record: dict) -> Image.Image:
    return Image.open(record["file_name"])


def test_an_undecodable_image_is_named(broken):
    with pytest.raises(DataError, match="broken.jpg: cannot be used: cannot identify image file"):
        mapped(opened, broken)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_undecodable_image_is_named_by_the_loader(broken, workers):
    loader = train_loader(Keyed([broken], opened, 0), Batches(lambda: itertools.repeat(0), 1), workers)
    with pytest.raises(DataError, match="broken.jpg: cannot be used"):
        next(iter(loader))
