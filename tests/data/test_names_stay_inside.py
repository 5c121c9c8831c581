import os

import pytest

from kd2.data.root import existing, files_below, inside, outside_allowed
from kd2.distill import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    """``given`` with a file and a sub folder, beside ``other`` with a secret."""
    (tmp_path / "given" / "sub").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    for name in ("given/a.png", "given/sub/b.png", "other/secret.png"):
        (tmp_path / name).write_text("x")
    return str(tmp_path / "given")


@pytest.mark.parametrize("name", ["a.png", "sub/b.png", "sub/../a.png", "still/to come.png", "..png", "a..b"])
def test_a_name_inside_is_its_path_below_the_folder(folder, name):
    assert inside(folder, name, "file") == os.path.join(folder, name)


def test_an_absolute_name_may_lead_inside(folder):
    assert inside(folder, f"{folder}/a.png", "file") == f"{folder}/a.png"


@pytest.mark.parametrize("name", ["../other/secret.png", "sub/../../other/secret.png", "/etc/passwd", ".."])
def test_a_name_that_leads_out_is_refused(folder, name):
    with pytest.raises(DataError, match=r"list\.txt: file name .* leads out of .*given; DATASETS.ALLOW_OUTSIDE: True"):
        inside(folder, name, "list.txt")


def test_a_neighbor_whose_name_begins_alike_is_outside(folder):
    os.mkdir(f"{folder}2")
    with pytest.raises(DataError, match="leads out"):
        inside(folder, f"{folder}2/a.png", "file")


@pytest.mark.parametrize("name", [5, None, "", ["a.png"], "a\0.png"])
def test_what_is_no_name_is_refused(folder, name):
    with pytest.raises(DataError, match="file: file name .*, expected a text"):
        inside(folder, name, "file")


def test_a_link_that_leads_out_is_refused(folder):
    os.symlink("../other/secret.png", f"{folder}/link.png")
    with pytest.raises(DataError, match="link.png is a link to .*/other/secret.png, out of .*; DATASETS.ALLOW_OUTSIDE"):
        inside(folder, "link.png", "file")


def test_a_file_below_a_linked_folder_outside_is_refused(folder):
    os.symlink("../other", f"{folder}/more")
    with pytest.raises(DataError, match="is a link to .*/other/secret.png"):
        inside(folder, "more/secret.png", "file")


def test_a_link_that_stays_inside_is_taken(folder):
    os.symlink("sub/b.png", f"{folder}/link.png")
    assert inside(folder, "link.png", "file") == f"{folder}/link.png"


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    os.symlink(folder, tmp_path / "data")
    assert inside(str(tmp_path / "data"), "sub/b.png", "file") == f"{tmp_path}/data/sub/b.png"


def test_names_may_lead_out_where_the_config_allows_it(folder):
    os.symlink("../other", f"{folder}/more")
    with outside_allowed(True):
        assert inside(folder, "../other/secret.png", "file") == f"{folder}/../other/secret.png"
        assert list(files_below(folder)) == ["a.png", "more/secret.png", "sub/b.png"]
    with pytest.raises(DataError):
        inside(folder, "../other/secret.png", "file")


def test_a_walk_meets_files_in_sorted_order_without_hidden_ones(folder):
    os.makedirs(f"{folder}/.cache")
    for name in (".cache/c.png", ".hidden.png"):
        with open(f"{folder}/{name}", "w"):
            pass
    os.symlink("sub", f"{folder}/again")
    assert list(files_below(folder)) == ["a.png", "again/b.png", "sub/b.png"]


def test_a_walk_refuses_a_link_that_leads_out(folder):
    os.symlink("../other", f"{folder}/more")
    with pytest.raises(DataError, match="more is a link to .*/other, out of"):
        list(files_below(folder))


def test_a_walk_ends_at_a_link_to_a_folder_above(folder):
    os.symlink("..", f"{folder}/sub/up")
    with pytest.raises(DataError, match="sub/up is a link to a folder that holds it"):
        list(files_below(folder))


@pytest.mark.parametrize("name", ["../../evil", "/evil"])
def test_a_data_set_whose_name_is_a_path_is_refused(folder, name):
    with pytest.raises(ConfigError, match="is no name of a data set"):
        existing(name, {"JSON": folder}, "JSON")
