"""Golden cases of structured knowledge distillation. Their json's ``component`` says which part a case is about.

The files ``_skd_*`` of this folder know some components each: their ``COMPONENTS`` maps one to a function from a case
to its outputs.
"""

import importlib
import pkgutil

from torch import Tensor

import tests.golden.runners as folder
from kd2.distill import DataError, nearest
from tests.golden.runners._case import Case


def component(case: Case) -> dict[str, Tensor]:
    """The outputs of a case. Raises DataError when no file knows its component."""
    known = {}
    for module in pkgutil.iter_modules(folder.__path__):
        if module.name.startswith("_skd_"):
            known |= importlib.import_module(f"{folder.__name__}.{module.name}").COMPONENTS
    name = case.meta["component"]
    if name not in known:
        raise DataError(f"nobody knows how to run component {name!r}; {nearest(name, known)}")
    return known[name](case)


CASES = {"SKD (structured knowledge distillation)": component}
