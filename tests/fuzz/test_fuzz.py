"""Whatever stands in a file, reading it ends in a result or in one line, soon, and leaves nothing behind.

``python -m pytest -m fuzz tests/fuzz -s`` reads 1,300 inputs of each kind and prints the table of docs/security.md.
"""

import pytest

from kd2.cli import table

from .driver import BAD, GOOD, tally
from .inputs import KINDS

FEW, MANY = 40, 1300

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_or_refused_in_one_line(kind, tmp_path):
    counts, bad = tally(*KINDS[kind], tmp_path, FEW)
    assert not bad, "\n".join(bad)
    assert counts["refused"] > 0 and counts.total() == FEW


@pytest.mark.fuzz
def test_many_damaged_inputs_are_read_or_refused_in_one_line(tmp_path):
    rows, wrong = [], []
    for kind, (write, read) in KINDS.items():
        counts, bad = tally(write, read, tmp_path / kind.replace(" ", "_"), MANY)
        rows.append([kind, counts.total(), *(counts[name] for name in (*GOOD, *BAD))])
        wrong += bad
    print(table(["kind", "inputs", *GOOD, *BAD], rows))
    assert not wrong, "\n".join(wrong)
