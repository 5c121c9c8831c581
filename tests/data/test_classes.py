"""Class names of data sets, checkpoints and teachers."""

import pytest

from kd2.data.classes import aligned, common, refuse_strangers, same_order, selection
from kd2.distill import ConfigError, DataError


def test_names_are_found_whatever_their_order():
    assert aligned(["RBC", "WBC", "Platelets"], ["Platelets", "RBC", "WBC"], "x") == [1, 2, 0]


def test_a_set_may_lack_classes():
    assert aligned(["dog"], ["cat", "dog"], "x") == [1]


def test_a_name_that_the_run_does_not_know_is_refused():
    text = "^val.json has the classes cat, cow, the run's are cat, dog: there is no 'cow'; CLASSES in its entry"
    with pytest.raises(DataError, match=text):
        aligned(["cat", "cow"], ["cat", "dog"], "val.json")


def test_the_set_with_the_most_classes_names_those_of_the_run():
    assert common([("a", ["dog"]), ("b", ["cat", "dog"]), ("c", ["dog", "cat"])]) == ("cat", "dog")


def test_sets_without_a_common_list_are_refused():
    with pytest.raises(DataError, match="^b has the classes cow, the run's are cat: there is no 'cow'"):
        common([("a", ["cat"]), ("b", ["cow"])])


def test_a_list_selects_and_orders():
    assert selection(["dog", "cat"], "x") == {"dog": "dog", "cat": "cat"}


def test_a_group_renames_and_merges():
    found = selection({"car": "vehicle", "van": "vehicle", 3: "person"}, "x")
    assert (found, list(dict.fromkeys(found.values()))) == (
        {"car": "vehicle", "van": "vehicle", "3": "person"},
        ["vehicle", "person"],
    )


@pytest.mark.parametrize("choice", [[], {}, "cat", None, 5, ["cat", "cat"], ["cat", ""], {"cat": ["dog"]}, [["cat"]]])
def test_classes_that_are_no_list_and_no_group_are_refused(choice):
    with pytest.raises(ConfigError, match=r"^DATASETS.CUSTOM.x.CLASSES is .*, expected a list of different names, or"):
        selection(choice, "DATASETS.CUSTOM.x.CLASSES")


def test_lists_whose_order_counts_are_compared_by_name():
    same_order(["a", "b"], ["a", "b"], "x", "y")
    with pytest.raises(ConfigError, match="^x and y differ in class 1: 'b' and 'c'; their order counts$"):
        same_order(["a", "b"], ["a", "c"], "x", "y")


def test_an_unknown_list_of_classes_fits():
    same_order([], ["a"], "x", "y")


def test_names_that_yaml_takes_for_truth_values_are_refused():
    with pytest.raises(ConfigError, match="YAML reads yes, no, on and off so; write the names in quotes"):
        selection([True, "cat"], "DATASETS.CUSTOM.x.CLASSES")


def test_classes_of_which_the_file_has_none_are_refused():
    with pytest.raises(DataError, match="a.json: CLASSES has yes, no, but the names there are cat, dog"):
        refuse_strangers(["yes", "no"], ["cat", "dog"], "a.json")
    refuse_strangers(["cat", "cow"], ["cat", "dog"], "a.json")
