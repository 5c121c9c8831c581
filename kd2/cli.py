"""What the scripts of tools/ share: arguments, error texts and tables."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterable

from kd2.distill import ConfigError, DataError, NonFiniteLoss


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config-file F`` and the ``KEY VALUE ...`` pairs behind all options, as in Detectron2's scripts."""
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="override keys of the config file")


def guarded(main: Callable[[], int]) -> int:
    """Run a script; a bad config, file or loss becomes one line on the error stream and exit code 1."""
    logger, handler = logging.getLogger("kd2"), logging.StreamHandler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        return main()
    except (ConfigError, DataError, NonFiniteLoss, OSError) as error:
        print(f"error: {_without_traceback(str(error))}", file=sys.stderr)
        return 1
    finally:
        logger.removeHandler(handler)


def _without_traceback(text: str) -> str:
    """An error from a worker of a data loader carries the worker's traceback; its last line is the error itself."""
    if text.startswith("Caught ") and "Traceback" in text:
        return text.strip().splitlines()[-1].partition(": ")[2]
    return text


def table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A Markdown table; numbers with a fraction get four significant digits."""
    cells = [list(header)] + [[f"{x:.4g}" if isinstance(x, float) else str(x) for x in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(x.ljust(w) for x, w in zip(row, widths)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)
