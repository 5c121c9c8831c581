"""What the tests of ``benchmarks/pays.py`` share."""

import pytest
import torch

from benchmarks.proof import child, grid
from tests.helpers.toy_grid import GRID, PAGE


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The grid ``toys`` with its teacher's file and page, in a folder of its own."""
    (tmp_path / "toys.yaml").write_text(GRID)
    (tmp_path / "page.md").write_text(PAGE)
    torch.save({"model": {"fpn.weight": torch.ones(2), "head.weight": torch.ones(2)}}, tmp_path / "teacher.pth")
    monkeypatch.setattr(grid, "GRIDS", tmp_path)
    monkeypatch.setattr(child, "commit", lambda: ("abc", True))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path
