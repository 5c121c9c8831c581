"""The formats of exported files: writing a graph with what it tells of itself, and running a written file."""

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kd2.deploy.predictor import BATCHED, OUTPUTS, Facts, Predictor, Predicts
from kd2.distill import ConfigError
from kd2.runs.files import write_atomically
from kd2.runs.packages import package

_OPSET = 17
_FACTS = "kd2"  # where a file keeps its facts
# Runs the graph of a file: uint8 pixels as it takes them, to its outputs.
Run = Callable[[np.ndarray], Sequence[np.ndarray]]


class ExportedFile(Predicts):
    """A file that ``kd2-export`` wrote, ready to run on the CPU.

    Args:
        run: see ``Run``.
    """

    def __init__(self, facts: Facts, run: Run):
        self.facts, self._run = facts, run

    def outputs(self, pixels: np.ndarray) -> Sequence[np.ndarray]:
        """See ``Predicts``."""
        return self._run(pixels[None] if self.facts.task in BATCHED else pixels)


@dataclass(frozen=True)
class Format:
    """A format of exported files.

    Attributes:
        endings: of the file, then of those that are written beside it.
        packages: of the extra ``deploy`` that write and run it.
        write: a predictor and an example of its input to the file of a name.
        open: that file to its facts as a text, and what runs it.
    """

    endings: tuple[str, ...]
    packages: tuple[str, ...]
    write: Callable[[Predictor, Tensor, str], None]
    open: Callable[[str], tuple[str | None, Run]]


def open_exported(path: str) -> ExportedFile:
    """A file that ``kd2-export`` wrote; its format is known by its ending.

    Raises:
        ConfigError: another ending; a damaged file, or one of another tool; a package is missing.
    """
    known = {form.endings[0]: form for form in FORMATS.values()}
    ending = os.path.splitext(path)[1]
    if ending not in known:
        raise ConfigError(f"{path}: expected the folder of a run, or an exported file: {', '.join(known)}")
    form = known[ending]
    for name in form.packages:
        package(name)
    try:
        facts, run = form.open(path)
    except Exception as error:  # each library has exceptions of its own
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from None
    return ExportedFile(Facts.read(facts, path), run)


def first_line(error: BaseException) -> str:
    """The first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception from ")] or lines  # OpenVINO's own places
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _write_onnx(predictor: Predictor, image: Tensor, path: str) -> None:
    onnx = package("onnx")
    with tempfile.TemporaryDirectory() as folder:
        graph = os.path.join(folder, "graph.onnx")
        _record_onnx(predictor, image, graph)
        model = onnx.load(graph)
    model.metadata_props.add(key=_FACTS, value=predictor.facts.dump())
    write_atomically(model.SerializeToString(), path)


def _record_onnx(predictor: Predictor, image: Tensor, path: str) -> None:
    """By the exporter that records TorchScript: the one behind ``torch.export`` does not know NMS."""
    names = list(OUTPUTS[predictor.facts.task])
    sides = {image.dim() - 2: "height", image.dim() - 1: "width"} | ({0: "images"} if predictor.any_batch else {})
    axes = {"images": sides} | {name: _free_sides(predictor, name) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            predictor.traceable(image), (image,), path, opset_version=_OPSET, input_names=["images"],
            output_names=names, dynamic_axes=axes, dynamo=False,
        )  # fmt: skip


def _free_sides(predictor: Predictor, name: str) -> dict[int, str]:
    """The sides of an output that a picture decides, by their names."""
    task = predictor.facts.task
    if task in BATCHED:
        pixels = {2: "height", 3: "width"} if task == "segmentation" else {}
        return pixels | ({0: "images"} if predictor.any_batch else {})
    return {0: "found"} | ({1: "height", 2: "width"} if name == "masks" else {})


def _open_onnx(path: str) -> tuple[str | None, Run]:
    runtime = package("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map.get(_FACTS)
    return facts, lambda pixels: session.run(None, {"images": pixels})


def _write_openvino(predictor: Predictor, image: Tensor, path: str) -> None:
    openvino = package("openvino")
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as folder:
        source, written = os.path.join(folder, "graph.onnx"), os.path.join(folder, "graph")
        _write_onnx(predictor, image, source)
        model = openvino.convert_model(source)
        model.set_rt_info(predictor.facts.dump(), [_FACTS])
        openvino.save_model(model, f"{written}.xml", compress_to_fp16=False)
        for ending in (".bin", ".xml"):
            os.replace(written + ending, os.path.splitext(path)[0] + ending)


def _open_openvino(path: str) -> tuple[str | None, Run]:
    openvino = package("openvino")
    model = openvino.Core().read_model(path)
    facts = model.get_rt_info([_FACTS]).astype(str) if model.has_rt_info([_FACTS]) else None
    # By itself OpenVINO computes in bfloat16 on processors that can.
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = openvino.Core().compile_model(model, "CPU", options)
    return facts, lambda pixels: list(compiled([pixels]).values())


def _write_torchscript(predictor: Predictor, image: Tensor, path: str) -> None:
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(predictor.traceable(image), (image,), check_trace=False)
        torch.jit.save(traced, content, _extra_files={_FACTS: predictor.facts.dump()})
    write_atomically(content.getvalue(), path)


def _open_torchscript(path: str) -> tuple[str | None, Run]:
    package("torchvision")  # brings the operator of NMS
    facts = {_FACTS: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.load(path, map_location="cpu", _extra_files=facts)

    @torch.no_grad()
    def run(pixels: np.ndarray) -> Sequence[np.ndarray]:
        return [x.numpy() for x in traced(torch.from_numpy(pixels))]

    text = facts[_FACTS]
    return text.decode() if isinstance(text, bytes) else text, run


FORMATS = {
    "onnx": Format((".onnx",), ("onnx", "onnxruntime"), _write_onnx, _open_onnx),
    "openvino": Format((".xml", ".bin"), ("onnx", "openvino"), _write_openvino, _open_openvino),
    "torchscript": Format((".pt",), (), _write_torchscript, _open_torchscript),
}
