"""OpenVINO: a network as ``.xml`` (its graph) and ``.bin`` (its weights), and such a pair run on the CPU.

torch is imported only where a file is made, so that a process which runs one is as small as a deployed one.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segdistill.formats.extra import require
from segdistill.formats.format import Format
from segdistill.formats.onnx import Onnx

if TYPE_CHECKING:
    from torch import Tensor

    from segdistill.formats.deployable import Deployable


@functools.cache
def core() -> Any:
    """The process's own core, which outlives every other.

    OpenVINO's CPU plugin gives the thread a stack for signal handlers and takes it back when it ends: where plugins
    that overlap end in the order of their beginning, that stack is gone while it is in use, and the next Ctrl-C or
    ended child process kills this one by SIGSEGV (seen with 2026.4). A core that begins first and never ends prevents
    it.
    """
    own = require("openvino", "running an OpenVINO file").Core()
    own.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin now
    return own


class OpenVino(Format):
    """OpenVINO's pairs of files: the graph, and the weights beside it."""

    name = "openvino"
    suffix = ".xml"
    needs = ("onnx", "onnxscript", "openvino")
    takes_int8 = True

    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> Any:
        """An ``openvino.Model``, read from the ONNX model of `Onnx.convert`, whose arguments these are.

        The metadata goes into the model's runtime information, under segdistill.
        """
        require("openvino", "export to openvino")
        model = core().read_model(Onnx().convert(deployable, example, dynamic, {}).SerializeToString(), b"")
        for key, value in metadata.items():
            model.set_rt_info(value, ["segdistill", key])
        return model

    def write(self, model: Any, path: Path) -> tuple[Path, ...]:
        """Writes the two files of ``model``; the graph, without which nobody looks at the weights, is named last."""
        # By default it would round the weights to 16 bits.
        require("openvino", "export to openvino").save_model(model, path, compress_to_fp16=False)
        return path.with_suffix(".bin"), path

    def open(self, path: Path) -> OpenVinoFile:
        """Open the pair of files whose graph is ``path``."""
        return OpenVinoFile(path)


class OpenVinoFile:
    """An OpenVINO model on the CPU.

    Args:
        path: the ``.xml`` file.
        threads: of the computation; None for as many as OpenVINO finds best.
        precision: what it computes in, ``"f32"`` or ``"bf16"``. OpenVINO itself would take bf16 wherever the CPU has
            it.
    """

    def __init__(self, path: Path, threads: int | None = None, precision: str = "f32") -> None:
        require("openvino", "running an OpenVINO file")
        self._core = core()
        self._path = path
        self._settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        if threads is not None:
            self._settings["INFERENCE_NUM_THREADS"] = threads
        self._compiled = self._core.compile_model(self._core.read_model(path), "CPU", self._settings)
        self._with_logits: Any = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The prediction for a batch of images."""
        return np.asarray(self._compiled([images])[0])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The class scores that a file made by `convert` computes on its way, float32 (B, K, H', W')."""
        if self._with_logits is None:
            model = self._core.read_model(self._path)
            model.add_outputs("logits")
            self._with_logits = self._core.compile_model(model, "CPU", self._settings)
        return np.asarray(self._with_logits([images])["logits"])

    def metadata(self) -> dict[str, str]:
        """What `convert` was given as metadata; empty in a file of another origin."""
        model = self._core.read_model(self._path)
        if not model.has_rt_info("segdistill"):
            return {}
        return {key: model.get_rt_info(["segdistill", key]).astype(str) for key in model.rt_info["segdistill"]}
