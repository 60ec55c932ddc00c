"""The kinds of files that networks are exported to, by name."""

from __future__ import annotations

from segdistill.formats.format import Format
from segdistill.formats.onnx import Onnx
from segdistill.formats.openvino import OpenVino
from segdistill.formats.torch_export import TorchExport

# A new format is one file and one line here.
_ALL: tuple[Format, ...] = (Onnx(), OpenVino(), TorchExport())

FORMATS = {format.name: format for format in _ALL}
SUFFIXES = {format.suffix: format for format in _ALL}
