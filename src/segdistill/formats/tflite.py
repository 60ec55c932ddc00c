"""TFLite, also called LiteRT: a network as a ``.tflite`` file for phones, and such a file run on the CPU.

torch and the converter are imported only where a file is made, so that a process which runs one is as small as a
deployed one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segdistill.errors import UserError
from segdistill.formats.extra import require
from segdistill.formats.format import Format

if TYPE_CHECKING:
    from torch import Tensor

    from segdistill.formats.deployable import Deployable

EXTRA = "tflite"
"""The extra of segdistill that brings converter and runtime."""

METADATA = "segdistill"
"""Name of our metadata among the file's own."""

_LARGEST = 2**31 - 1
"""Bytes of one flatbuffer."""

_PROGRESS = "LITERT_TORCH_SHOW_PROGRESS"


class TfLite(Format):
    """TFLite files, run by LiteRT's interpreter."""

    name = "tflite"
    suffix = ".tflite"
    extra = EXTRA
    needs = ("litert_torch", "ai_edge_litert")
    fixed = True

    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> bytes:
        """What the file will hold; its input is named images, its outputs as ``deployable.outputs``, and logits.

        Raises:
            UserError: the model is larger than the 2 GiB of a TFLite file.
        """
        with _without_progress():
            converter = require("litert_torch", "export to tflite", EXTRA)
            try:
                made = converter.convert(deployable, (example,))
            except Exception as error:  # torch.fx adds lines of source code to each
                raise ValueError(str(error).partition("\n\nWhile executing")[0]) from error
        content = made.model_content()
        if len(content) > _LARGEST:
            raise UserError(f"the network takes {len(content) / 2**30:.1f} GiB, but a TFLite file holds at most 2")
        return _described(content, deployable.outputs, metadata)

    def write(self, model: bytes, path: Path) -> tuple[Path, ...]:
        """Write the one file of ``model``."""
        path.write_bytes(model)
        return (path,)

    def open(self, path: Path) -> TfLiteFile:
        """Open a TFLite file."""
        return TfLiteFile(path)


class TfLiteFile:
    """A TFLite file on LiteRT's CPU kernels.

    Args:
        path: the file.
        threads: of each operation; None for as many as there are cores.

    Raises:
        ValueError: it is damaged, or something else.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        runtime = require("ai_edge_litert.interpreter", "running a TFLite file", EXTRA)
        self._path = path
        self._interpreter = runtime.Interpreter(model_path=str(path), num_threads=threads or os.cpu_count() or 1)
        self._runner: Any = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The prediction for a batch of images."""
        return next(values for name, values in self._outputs(images).items() if name != "logits")

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The class scores that a file made by `convert` puts out too, float32 (B, K, H', W')."""
        return self._outputs(images)["logits"]

    def metadata(self) -> dict[str, str]:
        """What `convert` was given as metadata; empty in a file of another origin."""
        schema = require("ai_edge_litert.schema_py_generated", "looking into a TFLite file", EXTRA)
        model = schema.Model.GetRootAs(self._path.read_bytes(), 0)
        for number in range(model.MetadataLength()):
            if model.Metadata(number).Name() == METADATA.encode():
                found = json.loads(model.Buffers(model.Metadata(number).Buffer()).DataAsNumpy().tobytes())
                return {str(key): str(value) for key, value in found.items()}
        return {}

    def _outputs(self, images: np.ndarray) -> dict[str, np.ndarray]:
        if self._runner is None:
            self._runner = self._interpreter.get_signature_runner()
        found: dict[str, np.ndarray] = self._runner(images=images)
        return found


def _described(content: bytes, outputs: str, metadata: Mapping[str, str]) -> bytes:
    """The model with our names of its input and outputs, and our metadata."""
    schema = require("ai_edge_litert.schema_py_generated", "export to tflite", EXTRA)
    builder = require("flatbuffers", "export to tflite", EXTRA).Builder(len(content))
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    (signature,) = model.signatureDefs
    signature.inputs[0].name = "images"
    names = {b"output_0": outputs, b"output_1": "logits"}
    for output in signature.outputs:
        output.name = names[output.name]
    values, entry = schema.BufferT(), schema.MetadataT()
    values.data = np.frombuffer(json.dumps(dict(metadata)).encode(), np.uint8)
    entry.name, entry.buffer = METADATA, len(model.buffers)
    model.buffers.append(values)
    model.metadata = [*(model.metadata or []), entry]
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@contextmanager
def _without_progress() -> Iterator[None]:
    """Inside, the converter prints no lines of its own; the environment is as before afterwards."""
    before = os.environ.get(_PROGRESS)
    os.environ[_PROGRESS] = "n"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_PROGRESS]
        else:
            os.environ[_PROGRESS] = before
