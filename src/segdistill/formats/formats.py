"""The kinds of files that networks are exported to."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from segdistill.formats import to_onnx, to_openvino, to_torch_export
from segdistill.formats.agreement import Opener


@dataclass(frozen=True)
class Format:
    """How one kind of file is made and run.

    Attributes:
        module: has ``SUFFIX``, ``convert`` and ``write``.
        open: of the file.
        needs: packages of the extra ``deploy``.
    """

    module: ModuleType
    open: Opener
    needs: tuple[str, ...]


FORMATS = {
    "onnx": Format(to_onnx, to_onnx.OnnxFile, ("onnx", "onnxscript", "onnxruntime")),
    "openvino": Format(to_openvino, to_openvino.OpenVinoFile, ("onnx", "onnxscript", "openvino")),
    "torch-export": Format(to_torch_export, to_torch_export.TorchExportFile, ()),
}
