"""Files that networks are exported to, one class per format.

A new format is one file with a class derived from `Format`, and one line below. An installed package adds its own by
an entry point of the group ``segdistill.formats``. The classes are imported when they are first used, so that the names
are known without torch.
"""

from typing import TYPE_CHECKING

from segdistill.lazy import LazyTable, attributes_of

if TYPE_CHECKING:
    from segdistill.formats.format import Format

#: Every built-in format by its name on the command line.
FORMATS: LazyTable[type["Format"]] = LazyTable(
    {
        "onnx": "segdistill.formats.onnx:Onnx",
        "openvino": "segdistill.formats.openvino:OpenVino",
        "torch-export": "segdistill.formats.torch_export:TorchExport",
        "tflite": "segdistill.formats.tflite:TfLite",
        "coreml": "segdistill.formats.coreml:CoreMl",
    }
)

__all__ = ["FORMATS", "Format"]

__getattr__ = attributes_of(__name__, "segdistill.formats.format:Format")
