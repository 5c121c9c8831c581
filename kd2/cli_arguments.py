"""What the arguments of the commands share."""

import argparse
from typing import Any, NoReturn

from kd2.distill import ConfigError


class Parser(argparse.ArgumentParser):
    """The arguments of a script, described by its docstring; wrong ones are a user's error like any other."""

    def __init__(self, text: str | None = None, **kwargs: Any):
        super().__init__(description=text, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config-file F``, ``--import MODULE``, ``--allow-pickle``, ``--allow-code``; last ``KEY VALUE ...``."""
    parser.add_argument("--config-file", required=True, metavar="FILE", help="or kd2://NAME, a config of the package")
    parser.add_argument(
        "--import", dest="imports", action="append", default=[], metavar="MODULE",
        help="a module that registers losses of your own; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--allow-pickle", action="store_true",
        help="unpickle files that hold more than arrays, which can run code: for files that you trust",
    )  # fmt: skip
    code_argument(parser)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="override keys of the config file")


def code_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-code``."""
    parser.add_argument(
        "--allow-code", action="store_true",
        help="read LazyConfig files of Detectron2, student's and teacher's; they are Python: for files that you trust",
    )  # fmt: skip


def score(text: str) -> float:
    """The type of an argument that is a score."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no score, expected a number from 0 to 1")
    return value


def count(text: str) -> int:
    """The type of an argument that counts something."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no count, expected a whole number from 0 on")
    return value


def positive(text: str) -> int:
    """The type of an argument that is a number of things, at least one."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is none, expected a whole number from 1 on")
    return value
