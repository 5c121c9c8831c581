"""The packages that Detectron2's evaluators call: named where they are missing, and run with any NumPy.

Only names inside a package change: NumPy and its other users are left alone. One rule holds for every score: a class
without ground truth is nan and takes no part in a mean, whatever was found.
"""

import importlib
import importlib.util
import math
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import ModuleSpec
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kd2.data.segmentation.labels import tell_absent
from kd2.distill import ConfigError, DataError

_CITYSCAPES = ("deeplearning", "deeplearning.projects", "deeplearning.projects.cityscapesApi")
_SCRIPTS = "cityscapesscripts.evaluation.eval{}SemanticLabeling"


def provide_packages(evaluator_type: str, key: str) -> None:
    """Make ready what the evaluators of a type of data set call; ``key`` asks for it.

    Raises:
        ConfigError: a package is not installed.
    """
    for part, provide in {"cityscapes": _provide_cityscapes, "lvis": _provide_lvis, "panoptic": _provide_pq}.items():
        if part in evaluator_type:
            provide(key)


def provide_reader(evaluator_type: str, key: str) -> None:
    """The same for what Detectron2's readers of its own data sets call."""
    if evaluator_type in ("cityscapes_instance", "lvis"):
        provide_packages(evaluator_type, key)
    if evaluator_type == "cityscapes_instance":
        _found("shapely", key, "Detectron2's reader of Cityscapes' polygons")


def _found(package: str, key: str, what: str) -> ModuleSpec:
    found = importlib.util.find_spec(package)
    if found is None:
        raise ConfigError(f"{key}: {what} needs the package {package}: pip install {package}")
    return found


def _provide_cityscapes(key: str) -> None:
    """Let Detectron2 find the public scripts.

    Some of its versions look for them in Meta's repository, below ``deeplearning.projects.cityscapesApi``.
    """
    found = _found("cityscapesscripts", key, "the evaluation of Detectron2's Cityscapes")
    if _CITYSCAPES[0] not in sys.modules and importlib.util.find_spec(_CITYSCAPES[0]) is None:
        for name in _CITYSCAPES:
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__path__ = []
        sys.modules[_CITYSCAPES[-1]].__path__ = [os.path.dirname(x) for x in found.submodule_search_locations]
    for prefix in ("", f"{_CITYSCAPES[-1]}."):
        pixels, instances = (
            importlib.import_module(prefix + _SCRIPTS.format(kind)) for kind in ("PixelLevel", "InstanceLevel")
        )
        if not isinstance(pixels.np, _OlderNumPy):
            pixels.np = instances.np = _OlderNumPy("numpy")
            pixels.evaluateImgLists = _known_classes(pixels)
            pixels.printError = instances.printError = _refuse
            # Two files that nobody reads again, one of them in the working folder; NumPy's counts would not go into
            # JSON.
            instances.writeDict2JSON = _write_nothing


def _known_classes(scripts: types.ModuleType) -> Callable[..., dict[str, Any]]:
    """The evaluation of pixels in which classes and categories without labeled pixels are nan, and are named."""
    original = scripts.evaluateImgLists

    def evaluate(*args: Any) -> dict[str, Any]:
        result = original(*args)
        pixels = {name: sum(result["confMatrix"][number]) for name, number in result["labels"].items()}
        groups = {
            name: sum(pixels.get(label.name, 0) for label in labels if not label.ignoreInEval)
            for name, labels in scripts.category2labels.items()
        }
        for kind, plural, truth in (("class", "Classes", pixels), ("category", "Categories", groups)):
            for inst in ("", "Inst"):
                scores = {name: x if truth[name] else math.nan for name, x in result[f"{kind}{inst}Scores"].items()}
                result[f"{kind}{inst}Scores"] = scores
                result[f"averageScore{inst}{plural}"] = scripts.getScoreAverage(scores, scripts.args)
        scored = [label.name for label in scripts.labels if label.id >= 0 and not label.ignoreInEval]
        tell_absent([name for name in scored if not pixels[name]], "IoU")
        return result

    return evaluate


def _provide_lvis(key: str) -> None:
    _found("lvis", key, "Detectron2's LVIS")
    importlib.import_module("lvis.eval").np = _OlderNumPy("numpy")


def _provide_pq(key: str) -> None:
    """Panoptic quality as Detectron2 imports it: from panopticapi, otherwise from the scripts of Cityscapes.

    panopticapi is not on PyPI; both packages hold the same code.
    """
    if importlib.util.find_spec("panopticapi") is None:
        _found("cityscapesscripts", key, "the evaluation of panoptic data sets")
        scripts = importlib.import_module(_SCRIPTS.format("Panoptic"))
        parts = {name: types.ModuleType(f"panopticapi.{name}") for name in ("utils", "evaluation")}
        parts["utils"].id2rgb = _id2rgb
        parts["evaluation"].pq_compute = lambda *args, **folders: _pq_compute(scripts, *args, **folders)
        parts["evaluation"].PQStat = scripts.PQStat
        stand_in = types.ModuleType("panopticapi")
        stand_in.__spec__ = ModuleSpec("panopticapi", None)
        sys.modules |= {"panopticapi": stand_in} | {part.__name__: part for part in parts.values()}
    importlib.import_module("panopticapi.evaluation").PQStat.pq_average = _pq_average


def _id2rgb(ids: np.ndarray) -> np.ndarray:
    """(H, W) ids of segments as (H, W, 3) uint8, the lowest byte first."""
    return np.stack([ids >> shift & 255 for shift in (0, 8, 16)], 2).astype(np.uint8)


def _pq_compute(
    scripts: types.ModuleType, truth: str, predictions: str, gt_folder: str, pred_folder: str
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        results = os.path.join(folder, "results.json")
        return scripts.evaluatePanoptic(truth, gt_folder, predictions, pred_folder, results)


def _pq_average(
    stat: Any, categories: Mapping[int, Mapping[str, Any]], isthing: bool | None
) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """Means over the categories with ground truth (all, things or the others), and the values of each."""
    values: dict[int, dict[str, float]] = {}
    for number, category in categories.items():
        found = stat.pq_per_cat[number]
        if isthing in (None, category["isthing"] == 1):
            values[number] = dict.fromkeys(("pq", "sq", "rq"), math.nan)
            if found.tp + found.fn:
                rq = found.tp / (found.tp + 0.5 * found.fp + 0.5 * found.fn)
                sq = found.iou / found.tp if found.tp else 0.0
                values[number] = {"pq": sq * rq, "sq": sq, "rq": rq}
    known = [x for x in values.values() if not math.isnan(x["pq"])]
    means = {name: sum(x[name] for x in known) / len(known) if known else math.nan for name in ("pq", "sq", "rq")}
    return {**means, "n": len(known)}, values


class _OlderNumPy(types.ModuleType):
    """NumPy with what the packages call and newer versions dropped."""

    float = float

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def in1d(values: ArrayLike, among: Iterable[int], invert: bool = False) -> np.ndarray:
        """Whether each of the flattened ``values`` is ``among`` these."""
        return np.isin(np.ravel(values), list(among), invert=invert)


def _refuse(message: str) -> None:
    """In place of the scripts' own function, which ends the process."""
    raise DataError(f"the scripts of Cityscapes: {message}")


def _write_nothing(_content: dict[str, Any], _path: str) -> None:
    pass
