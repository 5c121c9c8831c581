"""Does distillation pay: the page that a journal gives."""

import threading

import pytest

from benchmarks.blocks import replaced
from benchmarks.proof import page
from benchmarks.proof.journal import Journal
from kd2.distill import ConfigError
from tests.helpers.toy_grid import GRID, PAGE, Trainings, cells, gains, work, write


def test_the_page_has_paired_differences_recovery_and_time(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(gains)))
    # 5, 6 and 4.5: 4.3027 * 0.7638 / sqrt(3) around 5.1667; 5.1667 of the 10 points up to the teacher.
    assert cells(text, "imitation, torchvision") == ["41.0 -> 46.2", "+5.2 [+3.3, +7.1]", "52 %", "1.50", "3"]
    assert cells(text, "teacher")[1:3] == ["51.0", "50.0"]
    assert cells(text, "imitation above the student alone")[-1] == "holds"
    assert "kept" in text and "former table" not in text


def test_what_cannot_be_told_apart_is_said_in_words(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(lambda row, seed: (40.0, 40.0 + (-1) ** seed * len(row)))))
    assert cells(text, "imitation, weight")[-1] == "not distinguishable from the student alone"
    assert cells(text, "imitation above the student alone")[-1] == "cannot be told"


def test_a_failed_run_is_in_the_table(toys, monkeypatch):
    journal = work(toys, monkeypatch, Trainings(lambda row, seed: 1 if "WEIGHT" in row and seed == 2 else (40.0, 41.0)))
    text = write(toys, journal)
    assert cells(text, "imitation, weight")[-2] == "2 of 3"
    assert "Started, without a score: imitation, weight, seed 2: error: the loss is nan." in text


def test_a_loss_without_a_score_has_no_row_on_the_first_screen(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(lambda row, seed: 1 if "imitation" in row else (40.0, 41.0))))
    first, rest = text.split("kept")
    assert "alone, longer, torchvision" in first and "imitation" not in first
    assert cells(rest, "imitation")[-2] == "0 of 3"


def test_runs_of_other_settings_stay_on_the_page(toys, monkeypatch):
    journal = work(toys, monkeypatch, Trainings())
    former = journal.records(status="finished", row="imitation")[0] | {"hash": "former", "seed": 11}
    journal.append(former | {"status": "started"})
    journal.append(former)
    last = write(toys, journal).split("Other runs that were started")[1]
    assert cells(last, "imitation") == ["torchvision", "main", "100", "11", "1", "40.0", "abc"]


def test_below_a_variant_stands_what_the_unchanged_pair_gains(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(gains)))
    assert "Larger maps" not in text  # of which nothing was run but the student alone, which both sections share
    text = write(toys, work(toys, monkeypatch, Trainings(gains), section="times10"))
    assert "**Larger maps, torchvision**, 100 iterations" in text
    assert "The unchanged pair, 100 iterations: imitation +5.2 [+3.3, +7.1]." in text


def test_what_the_authors_give_stands_beside_the_rows_that_it_is_of(toys, monkeypatch):
    text = write(toys, work(toys, monkeypatch, Trainings(gains)))
    assert cells(text, "imitation, weight")[0] == "0.01"
    assert cells(text.split("kept")[1], "imitation ")[0] == ""
    text = write(toys, work(toys, monkeypatch, Trainings(gains), section="times10"))
    larger = text.split("**Larger maps")[1].splitlines()
    assert "published" not in larger[2] and larger[2].split("|")[2].strip() == "test"


def test_two_data_sets_that_are_written_at_once_keep_both_tables(toys, monkeypatch):
    (toys / "dolls.yaml").write_text(GRID)
    (toys / "page.md").write_text(PAGE + PAGE.replace("toys", "dolls"))
    other = threading.Thread(target=write, args=(toys, Journal(toys / "dolls.jsonl"), "dolls"))

    def meanwhile(grid, shown):
        if grid.data == "toys":  # the page was read, and is not yet written
            other.start()
            other.join(timeout=1)
        return f"table of {grid.data}"

    monkeypatch.setattr(page, "short", meanwhile)
    write(toys, Journal(toys / "toys.jsonl"))
    other.join()
    text = (toys / "page.md").read_text()
    assert "table of toys" in text and "table of dolls" in text


def test_a_page_without_a_mark_is_refused():
    with pytest.raises(ConfigError, match="pays: toys"):
        replaced("# Results\n", "pays", "toys", "x")
