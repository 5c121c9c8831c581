"""The three forms of a golden case's tolerance."""

import pytest
import torch

from tests.golden.runners._case import Case
from tests.golden.runners._tolerance import compare


def share(tolerance: dict, found: list[float], name: str = "out.x", dtype=torch.float64, **meta) -> float:
    """Error of ``found`` against the stored (1, 100), in units of what is allowed."""
    arrays = {name: torch.tensor([1.0, 100.0], dtype=torch.float64), "grad.y": torch.tensor([-1000.0])}
    case = Case("case", {"tolerance": tolerance} | meta, arrays)
    return compare(case, name, torch.tensor(found, dtype=dtype)).share


def test_one_rule_for_all_arrays_counts_for_each_element():
    assert share({"rtol": 0.1, "atol": 0.1}, [1.1, 100]) == pytest.approx(0.5)


def test_a_rule_with_a_metric_is_relative_to_the_largest_element():
    tolerance = {"float64": {"rtol": 0.1, "atol": 0.0}, "metric": "max|got - ref| <= rtol * max|ref|"}
    assert share(tolerance, [2, 100]) == pytest.approx(0.1)


def test_the_rule_of_the_precision_of_the_computation_counts():
    tolerance = {"float64": {"rtol": 0.01}, "float32": {"rtol": 0.1}}
    found = [share(tolerance, [1, 101], dtype=dtype) for dtype in (torch.float64, torch.float32)]
    assert found == pytest.approx([1.0, 0.1])


def test_an_array_that_is_zero_up_to_rounding_is_measured_by_the_largest_gradient():
    tolerance = {"float64": {"rtol": 0.1}, "metric": ""}
    assert share(tolerance, [51, 100], zero_up_to_rounding=["out.x"]) == pytest.approx(0.5)


@pytest.mark.parametrize("pattern", ["x", "out.x", "out.*"])
@pytest.mark.parametrize("name", ["out.x", "out.x.p3", "out.x_per_level"])
def test_a_pattern_fits_a_name_and_its_variants(pattern, name):
    assert share({pattern: {"rtol": 0.1}, "out.xy": {"rtol": 1e-9}}, [1, 101], name) == pytest.approx(0.1)


def test_the_pattern_that_fits_most_of_the_name_counts():
    assert share({"out.*": {"atol": 0.1}, "out.x": {"atol": 1.0}}, [1, 101]) == 1.0


def test_the_word_exact_allows_nothing():
    assert share({"out.x": "exact (array equality)"}, [1, 100 + 1e-12]) == float("inf")


def test_an_array_that_no_pattern_fits_gets_the_tightest_rule():
    assert share({"out.a": {"rtol": 0.1}, "out.b": {"rtol": 0.01}, "note": "text"}, [1, 101]) == pytest.approx(1.0)


def test_whole_numbers_are_exact_whatever_the_tolerance():
    case = Case("case", {"tolerance": {"rtol": 1.0, "atol": 1.0}}, {"out.n": torch.tensor([1, 2])})
    assert compare(case, "out.n", torch.tensor([1, 3])).share == float("inf")
