"""Pair-wise distillation: graphs of resemblance between the nodes of a map."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import peak_mib
from kd2.distill import BatchInfo, ConfigError
from kd2.losses.pairwise import Pairwise, directions, pairwise_loss
from kd2.ops.affinity import connections, graph_distance, local_graph_distance

from ..helpers import whole
from ..helpers.whole import batch_info, random_map, spec, value

STUDENT, TEACHER = random_map(2, 4, 8, 12), random_map(2, 6, 8, 12, seed=1)
CELLS = {"patch": (1, 1)}


def loss(student: Tensor = STUDENT, teacher: Tensor = TEACHER, **options) -> Tensor:
    size = (student.shape[2], student.shape[3])
    return value(Pairwise(spec(student.shape[1], size), spec(teacher.shape[1], size), **options), student, teacher)


def graph(x: Tensor) -> Tensor:
    """Cosines (N, n, n) of all pairs of cells; the lengths take part in the gradient."""
    nodes = F.normalize(x.flatten(2), dim=1)
    return nodes.mT @ nodes


def near(height: int, width: int, reach: int) -> Tensor:
    y, x = (i.flatten() for i in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    return (y[:, None] - y).abs().maximum((x[:, None] - x).abs()) <= reach


# The loss.


def test_it_is_the_mean_squared_difference_of_two_graphs():
    # Two cells: at right angles in the student, parallel in the teacher. Two of the four pairs differ, by 1.
    student, teacher = torch.eye(2).view(1, 2, 1, 2), torch.ones(1, 3, 1, 2)
    assert loss(student, teacher, **CELLS).item() == pytest.approx(0.5)


def test_lengths_do_not_matter():
    torch.testing.assert_close(loss(3 * STUDENT, TEACHER / 7, **CELLS), loss(**CELLS))


def test_channels_in_another_order_do_not_matter():
    assert loss(TEACHER.flip(1), TEACHER, **CELLS).item() == pytest.approx(0, abs=1e-7)


def test_levels_are_added():
    loss_module = Pairwise(spec(4) * 2, spec(6) * 2)
    torch.testing.assert_close(loss_module([STUDENT] * 2, [TEACHER] * 2, batch_info()), 2 * loss())


def test_the_batch_size_does_not_matter():
    torch.testing.assert_close(loss(STUDENT.repeat(3, 1, 1, 1), TEACHER.repeat(3, 1, 1, 1)), loss())


def test_an_empty_batch_gives_zero():
    loss_module = Pairwise(spec(4), spec(6))
    assert value(loss_module, STUDENT[:0], TEACHER[:0], BatchInfo([], (64, 96))).item() == 0


# Two exact ways to one number.


@pytest.mark.parametrize(("cells", "channels"), [(20, 4), (20, 30)], ids=["channel Grams", "the graph itself"])
def test_either_way_gives_value_and_gradient_of_the_graph(cells, channels):
    student = random_map(2, channels, cells).requires_grad_()
    teacher = random_map(2, channels + 2, cells, seed=1)
    expected = (student.mT @ student - teacher.mT @ teacher).square().sum()
    found = graph_distance(student, teacher)
    assert expected / 10 < found
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("cells", "shape"), [(100, (2, 100, 100)), (20, (2, 20, 20))])
def test_the_graph_is_built_only_where_that_is_cheaper(cells, shape):
    student, teacher = random_map(2, 16, cells).requires_grad_(), random_map(2, 24, cells, seed=1)
    built = peak_mib(lambda: graph_distance(student, teacher), torch.device("cpu")) * (1 << 18)
    assert (built >= 2 * cells * cells) == (cells == 20)


def test_channel_grams_keep_three_digits_of_nearly_equal_graphs():
    student = F.normalize(random_map(1, 32, 1000), dim=1)
    teacher = student + 3e-3 * random_map(1, 32, 1000, seed=1)
    exact = graph_distance(student.double(), teacher.double()).item()
    assert exact / 1000**2 < 3e-5
    assert graph_distance(student, teacher).item() == pytest.approx(exact, rel=1e-3)


# Nodes.


def test_a_scale_gives_windows_of_a_share_of_the_map_and_smaller_ones_at_the_end():
    # int(9 * 0.25) x int(13 * 0.25) = 2 x 3 cells: 5 x 5 nodes.
    loss_module = Pairwise(spec(4, (9, 13)), spec(4, (9, 13)), scale=0.25)
    assert loss_module.graph_nodes(random_map(1, 4, 9, 13)).shape == (1, 4, 5, 5)


@pytest.mark.parametrize(("pooling", "function"), [("max", F.max_pool2d), ("avg", F.avg_pool2d)])
def test_a_patch_is_pooled_to_a_node(pooling, function):
    nodes = [function(x, (2, 3), ceil_mode=True) for x in (STUDENT, TEACHER)]
    torch.testing.assert_close(loss(patch=(2, 3), pooling=pooling), loss(*nodes, **CELLS))


def test_a_patch_goes_before_the_scale():
    assert loss(patch=(4, 6), scale=0.1) == loss(scale=0.5)


# Lengths.


def test_detached_lengths_are_constants_for_the_gradient():
    student = STUDENT.clone().requires_grad_()
    found = torch.autograd.grad(loss(student, **CELLS), student)[0]
    unit = (student.flatten(2) / student.flatten(2).norm(dim=1, keepdim=True).detach()).view_as(student)
    affinity = unit.flatten(2).mT @ unit.flatten(2)
    expected = torch.autograd.grad((affinity - graph(TEACHER)).square().mean(), student)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)


def test_a_cosine_has_no_gradient_along_the_node():
    student = STUDENT.clone().requires_grad_()
    found = torch.autograd.grad(loss(student, normalize="cosine", **CELLS), student)[0]
    expected = torch.autograd.grad((graph(student) - graph(TEACHER)).square().mean(), student)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-7)
    assert (found * STUDENT).sum(1).abs().max() < 1e-7


@pytest.mark.parametrize("normalize", ["detached", "cosine"])
def test_a_zero_vector_resembles_nothing_and_gets_no_gradient(normalize):
    student = STUDENT.clone()
    student[0, :, 2, 3] = 0
    expected = (graph(student) - graph(TEACHER)).square().mean()
    student.requires_grad_()
    found = loss(student, normalize=normalize, **CELLS)
    found.backward()
    torch.testing.assert_close(found, expected.detach())
    assert not student.grad[0, :, 2, 3].any()
    assert 0 < student.grad.abs().max() < 1


@pytest.mark.parametrize("normalize", ["detached", "cosine"])
def test_a_map_of_zeros_has_no_gradient(normalize):
    student = torch.zeros(2, 4, 8, 12, requires_grad=True)
    loss(student, normalize=normalize).backward()
    assert not student.grad.any()


def test_nodes_up_to_eps_have_no_direction():
    nodes = torch.tensor([0.3, 0.5, 2.0]).view(1, 1, 1, 3)
    assert directions(nodes, "cosine", 0.5).flatten().tolist() == [0, 0, 1]
    torch.testing.assert_close(directions(nodes, "detached", 0.5).flatten(), torch.tensor([0, 0, 2 / 2.5]))


# Connection range.


@pytest.mark.parametrize("size", [(5, 7), (3, 9), (9, 3)])
@pytest.mark.parametrize("reach", [1, 2, 4])
def test_a_range_connects_neighbors_only(size, reach):
    student, teacher = random_map(2, 4, *size).requires_grad_(), random_map(2, 6, *size, seed=1)
    mask = near(*size, reach)
    expected = ((graph(student) - graph(teacher)).square() * mask).sum() / mask.sum() / 2
    found = loss(student, teacher, normalize="cosine", connection_range=reach, **CELLS)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("reach", [0, 2])
def test_value_and_gradient_are_those_of_the_formula(reach):
    student = STUDENT.clone().requires_grad_()
    expected = pairwise_loss(directions(student, "detached", 1e-8), directions(TEACHER, "detached", 1e-8), reach)
    found = loss(student, connection_range=reach, **CELLS)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(x, student)[0] for x in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("size", "reach"), [((5, 7), 2), ((2, 9), 4)])
def test_the_edges_are_counted(size, reach):
    assert connections(size, reach) == near(*size, reach).sum()


def test_a_range_over_the_whole_map_connects_all():
    whole_graph = graph_distance(STUDENT.flatten(2), TEACHER.flatten(2))
    torch.testing.assert_close(local_graph_distance(STUDENT, TEACHER, 11), whole_graph)
    assert loss(connection_range=11, **CELLS) == loss(**CELLS)


# What is refused.


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scale": 0.1}, r"SCALE is 0.1: a node of 0 x 1 cells on a map of \(8, 12\) cells"),
        ({"patch": (8, 12)}, r"PATCH is \[8, 12\]: a node of 8 x 12 cells .* at least one cell a node and two"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, text):
    with pytest.raises(ConfigError, match=text):
        Pairwise(spec(4), spec(6), **options)


def test_a_batch_whose_map_is_one_node_is_refused():
    with pytest.raises(ConfigError, match=r"PATCH is \[4, 4\]: a node of 4 x 4 cells on a map of \(4, 4\) cells"):
        Pairwise(spec(4), spec(6), patch=(4, 4))([STUDENT[:, :, :4, :4]], [TEACHER[:, :, :4, :4]], batch_info())


def test_a_patch_may_be_longer_than_one_side_of_the_map():
    torch.testing.assert_close(loss(patch=(20, 3)), loss(patch=(8, 3)))


# Every map, every precision, every device.


@pytest.mark.parametrize("dtype", whole.LOW)
def test_under_autocast_it_equals_float32_within_one_percent(dtype):
    loss_module = Pairwise(spec(256, (40, 56)), spec(256, (40, 56)), **CELLS)
    assert whole.low_precision_error(loss_module, (40, 56), dtype) < 0.01


@pytest.mark.parametrize("dtype", whole.LOW)
def test_half_precision_maps_give_a_float32_loss(dtype):
    student = STUDENT.to(dtype).requires_grad_()
    found = loss(student, TEACHER.to(dtype), **CELLS)
    found.backward()
    assert (found.dtype, student.grad.dtype) == (torch.float32, dtype)
    torch.testing.assert_close(found, loss(**CELLS), rtol=0.01, atol=0)


@pytest.mark.parametrize("options", [{}, CELLS, CELLS | {"connection_range": 2}], ids=str)
def test_strides_of_the_maps_do_not_matter(options):
    whole.same_for_any_strides(Pairwise(spec(), spec(), **options))


@pytest.mark.parametrize("options", [{}, CELLS | {"normalize": "cosine", "connection_range": 2}], ids=str)
def test_it_never_waits_for_the_device(options):
    whole.never_reads_the_device(Pairwise(spec(), spec(), **options))


@pytest.mark.parametrize("reach", [0, 1])
def test_all_cells_of_a_1024_x_2048_image_need_less_than_two_gib(reach):
    size = (129, 257)  # 33,153 nodes: a graph of them would take 4.1 GiB
    loss_module = Pairwise(spec(128, size), spec(512, size), connection_range=reach, **CELLS)
    student, teacher = torch.randn(1, 128, *size, requires_grad=True), torch.randn(1, 512, *size)
    assert (
        peak_mib(lambda: torch.autograd.grad(value(loss_module, student, teacher), student), torch.device("cpu")) < 2048
    )
