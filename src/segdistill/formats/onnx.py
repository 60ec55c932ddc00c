"""ONNX: a network as an ``.onnx`` file, and such a file run by ONNX Runtime.

torch is imported only where a file is made, so that a process which runs one is as small as a deployed one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segdistill.errors import UserError
from segdistill.formats.extra import require
from segdistill.formats.format import Format

if TYPE_CHECKING:
    from torch import Tensor

    from segdistill.formats.deployable import Deployable

_LARGEST = 2**31 - 1
"""Bytes of one protobuf message."""


class Onnx(Format):
    """ONNX files, run by ONNX Runtime."""

    name = "onnx"
    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")
    takes_int8 = True

    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> Any:
        """An ``onnx.ModelProto``; its input is named images, its output as ``deployable.outputs``.

        The class scores keep the name logits inside, so that they can be made an output again.

        Args:
            deployable: what to export, with logits.
            example: images of the layout, the dtype and the fixed sizes to come.
            dynamic: names of the axes of the images that may have any length.
            metadata: goes into the model's ``metadata_props``.

        Raises:
            UserError: the model is larger than the 2 GiB of an ONNX file.
        """
        import torch

        from segdistill.formats.pooling import traced_as_it_runs

        require("onnxscript", "export to onnx")
        with traced_as_it_runs(deployable):
            program = torch.onnx.export(
                deployable,
                (example,),
                input_names=["images"],
                output_names=[deployable.outputs, "logits"],
                dynamic_shapes={"images": dict(dynamic)} if dynamic else None,
                dynamo=True,
                verbose=False,
            )
        assert program is not None
        model = program.model_proto
        if model.ByteSize() > _LARGEST:
            raise UserError(f"the network takes {model.ByteSize() / 2**30:.1f} GiB, but an ONNX file holds at most 2")
        del model.graph.output[1]
        _forget_origin(model.graph)
        for key, value in metadata.items():
            model.metadata_props.add(key=key, value=value)
        return model

    def write(self, model: Any, path: Path) -> tuple[Path, ...]:
        """Writes the one file of ``model``."""
        path.write_bytes(model.SerializeToString())
        return (path,)

    def open(self, path: Path) -> OnnxFile:
        """Open an ONNX file."""
        return OnnxFile(path)


def _forget_origin(graph: Any) -> None:
    """Removes where each node came from: lines of source code, with the paths of this machine."""
    del graph.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
    for value in (*graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]


class OnnxFile:
    """An ONNX file on ONNX Runtime's CPU provider.

    Args:
        path: the file.
        threads: of each operation; None for as many as there are cores.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._runtime = require("onnxruntime", "running an ONNX file")
        self._path = path
        self._threads = threads
        self._session = self._start(path.read_bytes())
        self._with_logits: Any = None

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The prediction for a batch of images."""
        return np.asarray(self._session.run(None, {"images": images})[0])

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The class scores that a file made by `convert` computes on its way, float32 (B, K, H', W')."""
        if self._with_logits is None:
            onnx = require("onnx", "looking into an ONNX file")
            model = onnx.load_model(self._path)
            model.graph.output.add(name="logits").type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            self._with_logits = self._start(model.SerializeToString())
        return np.asarray(self._with_logits.run(["logits"], {"images": images})[0])

    def metadata(self) -> dict[str, str]:
        """What `convert` was given as metadata; empty in a file of another origin."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def _start(self, model: bytes) -> Any:
        options = self._runtime.SessionOptions()
        options.log_severity_level = 3  # errors: what fails raises, and is told once
        options.intra_op_num_threads = self._threads or 0
        return self._runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
