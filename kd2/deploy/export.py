"""The student of a run as one file for a device, compared with PyTorch before anybody trusts it."""

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd2.data.root import outside_allowed
from kd2.deploy.differences import Differences
from kd2.deploy.formats import FORMATS, ExportedFile, first_line, open_exported
from kd2.deploy.load import predictor_of, run_of
from kd2.deploy.predictor import Predictor
from kd2.deploy.test_set import Evaluated, TestSet, evaluate
from kd2.distill import ConfigError, nearest
from kd2.runs.folder import check_writable
from kd2.runs.packages import package

# Pictures on which a new file is compared with PyTorch.
COMPARED = 20
# The architectures whose files are compared with PyTorch in docs/deploy.md; of timm any classifier is tried.
ARCHITECTURES = (
    "RetinaNet", "FCOS", "FasterRCNN", "MaskRCNN", "CascadeRCNN", "CascadeMaskRCNN",
    "PSPNet", "DeepLabV3", "FCN", "LRASPP", "SemSegFPN", "ESPNetC", "ESPNet",
    "PSPNetHead", "SemSegFPNHead", "DeepLabV3Head", "DeepLabV3PlusHead", "ESPNetHead", "ESPNetCHead",
)  # fmt: skip


@dataclass(frozen=True)
class Export:
    """A student on its way into a file.

    Attributes:
        predictor: the student in PyTorch.
        tests: the test sets of the run by name.
        form: a key of ``FORMATS``.
        path: of the file.
    """

    predictor: Predictor
    tests: dict[str, Callable[[], TestSet]]
    form: str
    path: str

    def write(self) -> ExportedFile:
        """Write the file and open it again; raises ConfigError when the format cannot hold the student."""
        first = next(self.pictures())
        example = self.predictor.example(np.ascontiguousarray(first.transpose(2, 0, 1)))
        try:
            FORMATS[self.form].write(self.predictor, example, self.path)
        except (ConfigError, OSError):
            raise
        except Exception as error:  # the exporters have exceptions of their own
            name = self.predictor.facts.architecture
            raise ConfigError(f"--format {self.form}: {name} cannot be written: {first_line(error)}") from None
        return open_exported(self.path)

    def compare(self, file: ExportedFile) -> Differences:
        """PyTorch and the file on the first pictures of the test sets."""
        found = Differences()
        for picture in self.pictures():
            (ours,), (theirs,) = self.predictor.predict(picture), file.predict(picture)
            found.add(ours, theirs)
        return found

    def pictures(self) -> Iterator[np.ndarray]:
        """The first ``COMPARED`` pictures of the first test set."""
        data = next(iter(self.tests.values()))()
        yield from (data.picture(index) for index in range(min(COMPARED, len(data))))

    def evaluate(self, file: ExportedFile) -> dict[str, tuple[Evaluated, Evaluated]]:
        """PyTorch's and the file's scores and latencies on every whole test set, by its name."""
        return {name: (evaluate(self.predictor, data()), evaluate(file, data())) for name, data in self.tests.items()}


def prepare(
    run: str, form: str, path: str = "", overwrite: bool = False, weights: str = "", options: Sequence[str] = ()
) -> Export:
    """Everything that can fail before a file is written.

    Args:
        run: the folder of a run.
        form: a key of ``FORMATS``.
        path: of the file; empty: ``student`` with the format's ending in the folder of the run.
        overwrite: whether a file may be there.
        weights, options: see ``kd2.deploy.load.run_of``.

    Raises:
        ConfigError: no run; an unknown format, or one whose package is missing; a student that no format holds; no test
            set; a file that exists or has another ending.
        DataError: a test set that cannot be read.
    """
    if form not in FORMATS:
        raise ConfigError(f"--format is {form!r}; {nearest(form, FORMATS)}")
    for name in FORMATS[form].packages:
        package(name)
    experiment, weights = run_of(run, weights, options)
    path = _path(run, form, path, overwrite)
    with outside_allowed(experiment.cfg.DATASETS.ALLOW_OUTSIDE):
        tests = _tests(experiment)
    predictor = predictor_of(experiment, weights)
    _check_held(predictor, experiment.cfg)
    return Export(predictor, tests, form, path)


def _path(run: str, form: str, path: str, overwrite: bool) -> str:
    ending, *beside = FORMATS[form].endings
    path = path or os.path.join(run, f"student{ending}")
    if not path.endswith(ending):
        raise ConfigError(f"--output is {path!r}, expected a name that ends in {ending}: --format is {form}")
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ConfigError(f"--output is {path!r}, expected a name in a folder that exists")
    check_writable(folder, "--output: the folder")
    for name in [path, *(path.removesuffix(ending) + other for other in beside)]:
        if os.path.lexists(name) and not overwrite:
            raise ConfigError(f"{name} exists: --overwrite replaces it, --output names another")
    return path


def _tests(experiment: Any) -> dict[str, Callable[[], TestSet]]:
    names = list(experiment.cfg.DATASETS.TEST)
    if not names:
        raise ConfigError("DATASETS.TEST is empty, expected a test set, on whose images file and PyTorch are compared")
    data = experiment.load_data("TEST")
    experiment.check([], data)
    make = importlib.import_module(f"kd2.deploy.{experiment.cfg.FRAMEWORK}").test_set
    return {name: lambda one=one: make(experiment, one) for name, one in zip(names, data)}


def _check_held(predictor: Predictor, cfg: Any) -> None:
    """Raises ConfigError for a student that no exported file can hold."""
    name = predictor.facts.architecture
    if predictor.facts.task != "classification" and name not in ARCHITECTURES:
        raise ConfigError(f"{name} cannot be exported, only {', '.join(ARCHITECTURES)} and the classifiers of timm")
    if cfg.TEST.get("WINDOW", {}).get("SIZE"):
        raise ConfigError(
            f"TEST.WINDOW.SIZE is {list(cfg.TEST.WINDOW.SIZE)}: a file has no windows, whose number depends on the "
            "picture; TEST.WINDOW.SIZE [] TEST.WINDOW.STRIDE [] exports the network for whole pictures"
        )
