"""Pages and pictures on disk: Markdown, one HTML file with everything inside, JSON; TensorBoard gets the pictures."""

import base64
import glob
import html
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from kd2.distill import ConfigError
from kd2.report.sections import Section
from kd2.runs.files import write_atomically
from kd2.runs.folder import check_writable

_PAGES = ("report.md", "report.html", "report.json")
_PICTURES = "pictures"
_EVENTS = "tensorboard"
_DPI = 110


def check_free(folder: str, overwrite: bool) -> None:
    """Make ``folder``; raises ConfigError when it is not writable, or has a page or pictures and ``overwrite`` is not
    given.
    """
    check_writable(folder, "--output")
    found = [name for name in (*_PAGES, _PICTURES) if os.path.lexists(os.path.join(folder, name))]
    if found and not overwrite:
        raise ConfigError(f"--output {folder} holds {found[0]}; --overwrite replaces it, another folder keeps it")


def write_pictures(
    folder: str, pictures: Iterable[tuple[str, str, Figure]], overwrite: bool = False
) -> list[tuple[str, str]]:
    """Write (name, caption, figure) as PNG files into ``folder``/pictures, and for TensorBoard into ``folder``.

    Returns:
        (caption, path relative to ``folder``) of each.

    Raises:
        ConfigError: see ``check_free``.
    """
    check_free(folder, overwrite)
    _clear(folder)
    written = []
    os.makedirs(os.path.join(folder, _PICTURES), exist_ok=True)
    with SummaryWriter(os.path.join(folder, _EVENTS)) as events:
        for name, caption, figure in pictures:
            content = io.BytesIO()
            figure.savefig(content, format="png", dpi=_DPI)
            path = os.path.join(_PICTURES, re.sub(r"[^\w.-]", "_", name) + ".png")
            with open(os.path.join(folder, path), "wb") as file:
                file.write(content.getvalue())
            events.add_image(name, np.asarray(Image.open(content).convert("RGB")), dataformats="HWC")
            written.append((caption, path))
    return written


def _clear(folder: str) -> None:
    """Remove the pictures of an earlier page: others may take their place."""
    for names in (os.path.join(_PICTURES, "*.png"), os.path.join(_EVENTS, "events.out.tfevents.*")):
        for path in glob.glob(os.path.join(glob.escape(folder), names)):
            os.remove(path)


def write_page(folder: str, title: str, verdict: Sequence[str], sections: Sequence[Section], content: Any) -> None:
    """Write ``report.md``, ``report.html`` and ``report.json`` (``content``) into ``folder``."""
    loader = jinja2.PackageLoader("kd2.report")
    values = {"title": title, "verdict": verdict, "sections": sections}
    plain = jinja2.Environment(loader=loader, keep_trailing_newline=True, autoescape=False)
    plain.filters["cell"] = _cell
    page = jinja2.Environment(loader=loader, autoescape=True)
    page.filters["embedded"] = lambda path: _embedded(os.path.join(folder, path))
    write_atomically(plain.get_template("report.md.jinja").render(values), os.path.join(folder, "report.md"))
    write_atomically(page.get_template("report.html.jinja").render(values), os.path.join(folder, "report.html"))
    write_atomically(json.dumps(content, indent=1), os.path.join(folder, "report.json"))


def _cell(text: str) -> str:
    """A text that ends no cell of a Markdown table and is no HTML."""
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def _embedded(path: str) -> str:
    with open(path, "rb") as file:
        return f"data:image/png;base64,{base64.b64encode(file.read()).decode()}"
