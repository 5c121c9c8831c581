"""The folder of a run: whose it is, what a run may change there, which checkpoint is the last."""

from kd2.runs.folder import check_writable, last_checkpoint, tag_last_checkpoint


def test_a_new_run_has_no_last_checkpoint(tmp_path):
    assert last_checkpoint(str(tmp_path)) is None


def test_the_last_checkpoint_is_the_one_tagged_last(tmp_path):
    for name in ("b.pth", "a.pth"):
        tag_last_checkpoint(str(tmp_path / name))
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / "a.pth")


def test_a_moved_run_still_finds_its_checkpoint(tmp_path):
    (tmp_path / "old").mkdir()
    tag_last_checkpoint(str(tmp_path / "old" / "a.pth"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert last_checkpoint(str(tmp_path / "new")) == str(tmp_path / "new" / "a.pth")


def test_a_writable_folder_is_made_and_left_empty(tmp_path):
    check_writable(str(tmp_path / "a" / "b"))
    assert list((tmp_path / "a" / "b").iterdir()) == []
