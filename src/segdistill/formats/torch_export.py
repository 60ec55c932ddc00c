"""torch.export: a network as a ``.pt2`` file, which PyTorch alone loads and runs."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import Dim, ExportedProgram

from segdistill.formats.deployable import Deployable
from segdistill.formats.format import Format

METADATA_FILE = "segdistill.json"
"""Name of the metadata among the file's ``extra_files``."""


class TorchExport(Format):
    """Programs of torch.export, which PyTorch alone runs."""

    name = "torch-export"
    suffix = ".pt2"
    with_logits = False

    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> tuple[ExportedProgram, Mapping[str, str]]:
        """The program and its metadata; arguments as those of `Onnx.convert`, but without logits."""
        axes = dict.fromkeys(dynamic, Dim.DYNAMIC)
        with torch.no_grad():
            program = torch.export.export(deployable, (example,), dynamic_shapes={"images": axes}, strict=False)
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # lines of source code, with the paths of this machine
        return program, metadata

    def write(self, model: tuple[ExportedProgram, Mapping[str, str]], path: Path) -> tuple[Path, ...]:
        """Writes the one file of ``model``."""
        program, metadata = model
        # In memory first: what fails in torch's own writer of files is no OSError.
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={METADATA_FILE: json.dumps(dict(metadata))})
        path.write_bytes(buffer.getbuffer())
        return (path,)

    def open(self, path: Path) -> TorchExportFile:
        """Open a program; one that is not trusted may run code of whoever made it."""
        return TorchExportFile(path)


class TorchExportFile:
    """A ``.pt2`` file on the CPU.

    Args:
        path: the file; only open those you trust.

    Raises:
        ValueError: it is damaged, or something else.
    """

    def __init__(self, path: Path) -> None:
        if not zipfile.is_zipfile(path):  # torch would write a traceback to the terminal first
            raise ValueError("it is no zip archive")
        extra = {METADATA_FILE: ""}
        module = torch.export.load(path, extra_files=extra).module()
        assert isinstance(module, fx.GraphModule)
        self._module = module
        self._metadata = extra[METADATA_FILE]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The prediction for a batch of images."""
        with torch.no_grad():
            return np.asarray(self._module(torch.from_numpy(images)))

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The class scores that the program computes on its way, float32 (B, K, H', W')."""
        seen = _Scores(self._module)
        with torch.no_grad():
            seen.run(torch.from_numpy(images))
        assert seen.scores is not None
        return np.asarray(seen.scores)

    def metadata(self) -> dict[str, str]:
        """What `convert` was given as metadata; empty in a file of another origin."""
        return dict(json.loads(self._metadata)) if self._metadata else {}


class _Scores(fx.Interpreter):
    """Runs a program and keeps what its last argmax or softmax was given: the class scores."""

    scores: Tensor | None = None

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (torch.ops.aten.argmax.default, torch.ops.aten.softmax.int):
            self.scores = args[0]
        return super().call_function(target, args, kwargs)
