"""One tap: its grammar, what it selects from an output, and how layouts become maps."""

import pytest
import torch

from kd2.distill import Tap, TapError


def maps_of(output, text: str) -> list[torch.Tensor]:
    return Tap.parse(text).maps(output)


# The grammar.


def test_text_becomes_alias_path_keys_layout_prefix_and_grid():
    assert Tap.parse("t=body.norm:0,x@tokens+1/14x20") == Tap("t", "body.norm", ("0", "x"), "tokens", 1, (14, 20))


def test_spaces_do_not_matter():
    assert Tap.parse("fpn = backbone : p3, p4") == Tap("fpn", "backbone", ("p3", "p4"))


def test_the_input_of_a_module_has_keys_and_layouts_too():
    assert Tap.parse("f=input(head.last):1@nhwc") == Tap("f", "head.last", ("1",), "nhwc", of_input=True)


@pytest.mark.parametrize(
    "text", ["backbone", "fpn=backbone:", "fpn=backbone@chw", "a b=c-d", "f=input()", "f=input(a", "f=output(a)"]
)
def test_other_text_is_refused_with_the_form(text):
    with pytest.raises(TapError, match=r"is not of the form alias=module.path\[:key,key\]"):
        Tap.parse(text)


# What a tap selects.


def test_keys_choose_dict_entries_in_the_order_of_the_tap():
    a, b, c = torch.zeros(3, 1, 1, 1, 1)
    assert [x.data_ptr() for x in maps_of({"p3": a, "p4": b, "p5": c}, "f=m:p5,p3")] == [c.data_ptr(), a.data_ptr()]


def test_keys_choose_list_entries_by_index():
    a, b = torch.zeros(2, 1, 1, 1, 1)
    assert maps_of([a, b], "f=m:1")[0].data_ptr() == b.data_ptr()


def test_without_keys_every_entry_counts():
    assert len(maps_of({"p3": torch.zeros(1, 1, 2, 2), "p4": torch.zeros(1, 1, 1, 1)}, "f=m")) == 2


def test_missing_key_lists_near_names():
    with pytest.raises(TapError, match="module 'm' returns no 'p33'; did you mean p3"):
        maps_of({"p3": torch.zeros(1, 1, 1, 1)}, "f=m:p33")


def test_keys_on_a_single_tensor_are_refused():
    with pytest.raises(TapError, match=r"returns one tensor, it has no keys \('p3',\)"):
        maps_of(torch.zeros(1, 1, 1, 1), "f=m:p3")


def test_entries_that_are_not_tensors_are_refused():
    with pytest.raises(TapError, match=r"returns \['str'\] where maps are expected"):
        maps_of([torch.zeros(1, 1, 1, 1), "text"], "f=m")


# Layouts.


def test_nhwc_becomes_nchw():
    x = torch.randn(2, 4, 5, 3)
    assert maps_of(x, "f=m@nhwc")[0][1, 2, 3, 4] == x[1, 3, 4, 2]


def test_tokens_in_a_square_become_rows():
    x = torch.arange(9.0).view(1, 9, 1)
    assert maps_of(x, "f=m@tokens")[0].tolist() == [[[[0, 1, 2], [3, 4, 5], [6, 7, 8]]]]


def test_prefix_tokens_are_skipped_and_the_grid_gives_the_rows():
    x = torch.arange(8.0).view(1, 8, 1)
    assert maps_of(x, "f=m@tokens+2/2x3")[0].tolist() == [[[[2, 3, 4], [5, 6, 7]]]]


def test_tokens_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(TapError, match="10 tokens after a prefix of 0 are not 3 x 3; give prefix and grid as @tokens"):
        maps_of(torch.zeros(1, 10, 4), "f=m@tokens")


def test_three_axes_ask_for_the_token_layout():
    with pytest.raises(TapError, match=r"a map is \(N, C, H, W\), found shape \(1, 9, 4\); for .* write @tokens"):
        maps_of(torch.zeros(1, 9, 4), "f=m")


def test_a_map_is_no_sequence_of_tokens():
    with pytest.raises(TapError, match=r"tokens are \(N, L, C\), found shape \(1, 4, 2, 2\)"):
        maps_of(torch.zeros(1, 4, 2, 2), "f=m@tokens")


def test_containers_in_containers_are_refused():
    with pytest.raises(TapError, match=r"returns \['list'\] where maps are expected"):
        maps_of([[torch.zeros(1, 1, 1, 1)]], "f=m")


def test_a_vector_becomes_a_map_of_one_cell():
    x = torch.arange(6.0).view(2, 3)
    assert maps_of(x, "f=m@vector")[0].tolist() == [[[[0.0]], [[1.0]], [[2.0]]], [[[3.0]], [[4.0]], [[5.0]]]]


def test_two_axes_ask_for_the_vector_layout():
    with pytest.raises(TapError, match=r"a map is \(N, C, H, W\), found shape \(2, 10\); .*for \(N, C\) write @vector"):
        maps_of(torch.zeros(2, 10), "logits=fc")


def test_a_map_is_no_vector():
    with pytest.raises(TapError, match=r"tap 'f' at 'm': a vector is \(N, C\), found shape \(1, 4, 2, 2\)"):
        maps_of(torch.zeros(1, 4, 2, 2), "f=m@vector")
