import os
import shutil

import pytest

from kd2.data.images import read_image
from kd2.distill import DataError

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n0 0 8 8 rectfill\n%%EOF\n"


@pytest.mark.parametrize("name", ["a.eps", "a.jpg", "a.png"])
def test_postscript_is_not_handed_to_ghostscript(tmp_path, monkeypatch, name):
    """PIL knows a file by its content and starts the program ``gs``."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/marker\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert shutil.which("gs") == str(tmp_path / "gs")
    (tmp_path / name).write_bytes(EPS)
    with pytest.raises(DataError, match="Ghostscript"):
        read_image(str(tmp_path / name))
    assert not (tmp_path / "marker").exists()
