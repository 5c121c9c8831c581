"""Exported files beside PyTorch: the runs that are given, or one of every architecture with drawn weights."""

import importlib.util
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.blocks import replaced
from benchmarks.proof.fingerprint import ROOT
from kd2.cli import table
from kd2.config import read
from kd2.deploy import export
from kd2.deploy.formats import FORMATS, ExportedFile
from kd2.deploy.test_set import Evaluated, evaluate
from kd2.distill import ConfigError
from kd2.runs.files import save_atomically, write_atomically
from kd2.runs.folder import FINAL

DIFFERENCES = ("student", "format", "boxes", "scores", "masks", "without a partner")
SCORES = (*DIFFERENCES, "PyTorch / file")
COLUMNS = (*SCORES, "ms PyTorch / file")
PAGE = ROOT / "docs" / "deploy.md"
_METRICS = ("segm/AP", "bbox/AP", "sem_seg/mIoU", "cls/top1")

# Masks of a hundred detections take most of the time.
_FEW = {"TEST": {"DETECTIONS_PER_IMAGE": 20}}


def rows(runs: Iterable[str], forms: Sequence[str] = tuple(FORMATS), trained: bool = True) -> Iterator[dict[str, str]]:
    """A row of ``COLUMNS`` a run and format: the largest differences on 20 images.

    Args:
        trained: whether to measure score and latency on the whole test set, too.
    """
    for run in runs:
        framework = read(str(Path(run, "config.yaml")))["FRAMEWORK"]
        ours: list[Evaluated] = []  # of PyTorch, for the first format alone
        for form in forms:
            with tempfile.TemporaryDirectory() as folder:
                job = export.prepare(run, form, str(Path(folder, f"student{FORMATS[form].endings[0]}")))
                row = {"student": f"{framework} {job.predictor.facts.architecture}", "format": form}
                yield dict.fromkeys(COLUMNS, "") | row | _measured(job, ours if trained else None)


def _measured(job: export.Export, ours: list[Evaluated] | None) -> dict[str, str]:
    try:
        file = job.write()
    except ConfigError as error:
        return {"boxes": str(error)}
    found = job.compare(file)
    row = {name: f"{value:.0e}" if value else "0" for name, value in found.largest.items()}
    row["without a partner"] = f"{found.alone} of {found.detections}" if found.detections else ""
    return row if ours is None else row | _scored(job, file, ours)


def _scored(job: export.Export, file: ExportedFile, ours: list[Evaluated]) -> dict[str, str]:
    name, data = next(iter(job.tests.items()))
    ours += [] if ours else [evaluate(job.predictor, data())]
    (own,), found = ours, evaluate(file, data())
    metric = next(name for name in _METRICS if name in own.scores)
    return {
        "PyTorch / file": f"{name}: {metric} {own.scores[metric]:.2f} / {found.scores[metric]:.2f}",
        "ms PyTorch / file": f"{own.latency:.0f} / {found.latency:.0f}",
    }


def write_page(found: Sequence[Mapping[str, str]], trained: bool, page: Path = PAGE) -> None:
    """Write rows into the page, as the block ``drawn`` or ``trained`` of ``deploy``; it has no times, which depend on
    the machine.

    Raises:
        ConfigError: the page lacks a mark.
    """
    columns, name = (SCORES, "trained") if trained else (DIFFERENCES, "drawn")
    block = table(columns, [[row[column] for column in columns] for row in found])
    write_atomically(replaced(page.read_text(), "deploy", name, block), str(page))


def drawn_runs(folder: Path) -> Iterator[str]:
    """Folders of runs of every architecture on the roads that are installed, with drawn weights and pictures."""
    from tests.helpers import tiny_classification, tiny_detection, tiny_segmentation

    tiny_detection.write_data(folder / "objects", (tiny_detection.SIZES * 4)[:20])
    tiny_segmentation.write_data(folder / "pixels", tiny_segmentation.SIZES * 4)
    tiny_classification.write_data(folder / "pictures")
    if importlib.util.find_spec("lightning"):
        yield from map(_enlivened, _lightning_runs(folder))
    if importlib.util.find_spec("detectron2"):
        yield from map(_enlivened, _detectron2_runs(folder))


def _enlivened(run: str) -> str:
    """The run with its weights scaled so that every layer's outputs vary by 1 on the first picture, as after training.

    Weights as they are drawn for training leave residual branches at 0 and thousands of scores within 1e-5: such a
    student hides what a file does wrong, and the last bit decides which of its detections are kept.
    """
    with tempfile.TemporaryDirectory() as folder:
        job = export.prepare(run, "torchscript", str(Path(folder, "student.pt")))
    student, scaled = job.predictor.student, set()

    def scale(layer: nn.Module, inputs: tuple, output: Tensor) -> Tensor:
        spread = output.std() if output.numel() > 1 else output.new_ones(())
        if layer in scaled or not spread > 0:
            return output
        scaled.add(layer)
        layer.weight.div_(spread)
        return layer(*inputs)

    for layer in student.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            nn.init.ones_(layer.weight)
        if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)):
            layer.register_forward_hook(scale)
    job.predictor.predict(next(job.pictures()))
    path = str(Path(run, FINAL))
    save_atomically(torch.load(path, weights_only=True) | {"model": student.state_dict()}, path)
    return run


def _lightning_runs(folder: Path) -> Iterator[str]:
    from tests.helpers import tiny_classification, tiny_detection, tiny_segmentation
    from tests.helpers.untrained_runs import write_run

    one_stage, two_stage = {"RETINANET": {"SCORE_THRESH_TEST": 0.01}}, {"ROI_HEADS": {"SCORE_THRESH_TEST": 0.1}}
    detectors = {
        "RetinaNet": one_stage | {"ROI_HEADS": None},
        "FCOS": one_stage | {"ROI_HEADS": None, "ANCHOR_GENERATOR": None, "FPN": {"OUT_CHANNELS": 32}},
        "FasterRCNN": two_stage | {"RETINANET": None},
        "MaskRCNN": two_stage | {"RETINANET": None},
    }
    no_aux, plain = {"AUX_WEIGHT": None}, {"NAME": "timm/test_resnet", "ARGS": None}
    segmenters = {
        "PSPNet": {},
        "DeepLabV3": {"SEM_SEG_HEAD": {"CONVS_DIM": None}},
        "FCN": {"SEM_SEG_HEAD": {"CONVS_DIM": None}},
        "LRASPP": {"SEM_SEG_HEAD": no_aux},
        "SemSegFPN": {"SEM_SEG_HEAD": no_aux, "BACKBONE": plain},
        "ESPNetC": {"SEM_SEG_HEAD": no_aux | {"CONVS_DIM": None}, "BACKBONE": None},
        "ESPNet": {"SEM_SEG_HEAD": no_aux | {"CONVS_DIM": None}, "BACKBONE": None},
    }
    resized = {"INPUT": {"MIN_SIZE_TEST": 40}}
    classifiers = {"resnet18": 64, "mobilenetv3_small_050": 64, "test_vit": 160, "kd2_resnet20": 32}
    for tiny, data, test, models in (
        (tiny_detection, "objects", "tiny", {name: {"MODEL": part} for name, part in detectors.items()}),
        (tiny_segmentation, "pixels", "drawn", {name: {"MODEL": part, **resized} for name, part in segmenters.items()}),
        (tiny_classification, "pictures", "tiny", {name: {"INPUT": {"SIZE": n}} for name, n in classifiers.items()}),
    ):
        key = "NAME" if tiny is tiny_classification else "META_ARCHITECTURE"
        for name, changes in models.items():
            own = {"MODEL": changes.get("MODEL", {}) | {key: name}, "DATASETS": {"TEST": [test]}}
            own |= _FEW if tiny is tiny_detection else {}
            (folder / name).mkdir()
            yield write_run(tiny.write_config(folder / name, folder / data, changes | own))


def _detectron2_runs(folder: Path) -> Iterator[str]:
    from tests.helpers import d2_families, d2_semantic, d2_tiny, tiny_segmentation
    from tests.helpers.untrained_runs import write_run

    low = {"MODEL": {"RETINANET": {"SCORE_THRESH_TEST": 0.01}, "ROI_HEADS": {"SCORE_THRESH_TEST": 0.1}}}
    head = {"NAME": "MaskRCNNConvUpsampleHead", "NUM_CONV": 1, "CONV_DIM": 16, "POOLER_RESOLUTION": 7}
    masks = d2_tiny.merged(d2_tiny.FASTER_RCNN, {"MODEL": {"MASK_ON": True, "ROI_MASK_HEAD": head}})
    cascade = {"MODEL": {"ROI_HEADS": {"NAME": "CascadeROIHeads"}, "ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True}}}
    test = {"DATASETS": {"TEST": ["tiny"]}, **_FEW}
    plain = {**d2_tiny.DETECTORS, "masks": masks}
    cascades = {f"{name}_cascade": d2_tiny.merged(plain[name], cascade) for name in ("GeneralizedRCNN", "masks")}
    for name, detector in {**plain, **cascades}.items():
        place = folder / f"d2_{name}"
        place.mkdir()
        yield write_run(d2_tiny.write_config(place, folder / "objects", low, test, detector=detector))
    place = folder / "d2_FCOS"
    place.mkdir()
    low = {"MODEL": {"LAZY_OVERRIDES": ["model.test_score_thresh=0.01"]}}
    yield write_run(d2_families.lazy_config(place, folder / "objects", "fcos", test, low))
    entry = {"shapes": {"CLASSES": tiny_segmentation.CLASSES}}
    more = {"DATASETS": {"TEST": ["shapes"], "CUSTOM": entry}, "MODEL": {"SEM_SEG_HEAD": {"NUM_CLASSES": 5}}}
    for name, changes in d2_semantic.NETWORKS.items():
        place = folder / name
        place.mkdir()
        yield write_run(d2_semantic.semantic_config(place, folder / "pixels", changes, more))
