"""The batch_info: anchors of a grid, and random draws that a resumed run repeats."""

import torch

from kd2.distill import AnchorGrid, BatchInfo

CPU = torch.device("cpu")


def draw(seed: int = 0, iteration: int = 0, stream: int = 0) -> float:
    batch_info = BatchInfo([(1, 1)], (1, 1), iteration=iteration, seed=seed)
    return torch.rand((), generator=batch_info.generator(CPU, stream)).item()


def test_dense_repeats_the_base_at_every_cell():
    grid = AnchorGrid(torch.tensor([[-1.0, -2.0, 1.0, 2.0]]), stride=(10, 100), size=(2, 3))
    assert grid.dense()[:, :, 0].tolist() == [
        [[-1, -2, 1, 2], [99, -2, 101, 2], [199, -2, 201, 2]],
        [[-1, 8, 1, 12], [99, 8, 101, 12], [199, 8, 201, 12]],
    ]


def test_dense_keeps_the_order_of_the_base():
    base = torch.tensor([[0.0, 0, 1, 1], [0, 0, 2, 2]])
    assert torch.equal(AnchorGrid(base, (4, 4), (2, 2)).dense()[1, 1], base + 4)


def test_dense_has_the_precision_of_the_base():
    grid = AnchorGrid(torch.zeros(1, 4, dtype=torch.float64), stride=(0.1, 0.1), size=(1, 4))
    assert grid.dense()[0, 3, 0, 0].item() == 3 * 0.1


def test_the_same_seed_iteration_and_stream_repeat_a_draw():
    assert draw(3, 7, 1) == draw(3, 7, 1)


def test_seed_iteration_and_stream_each_change_the_draw():
    assert len({draw(), draw(seed=1), draw(iteration=1), draw(stream=1)}) == 4


def test_a_generator_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    draw()
    assert torch.equal(before, torch.get_rng_state())
