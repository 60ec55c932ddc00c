"""Core ML: a network as an ``.mlpackage`` for iPhone, iPad and Mac.

Such a package is made on any system, but runs on Apple's alone: what is checked here is its structure, not its values.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from segdistill.errors import UserError
from segdistill.formats.extra import require
from segdistill.formats.format import Format

if TYPE_CHECKING:
    from torch import Tensor
    from torch.export import ExportedProgram

    from segdistill.formats.about import About
    from segdistill.formats.deployable import Deployable

EXTRA = "coreml"
"""The extra of segdistill that brings the converter."""


class CoreMl(Format):
    """Core ML packages: folders with a program and its weights."""

    name = "coreml"
    suffix = ".mlpackage"
    extra = EXTRA
    needs = ("coremltools",)
    fixed = True
    folder = True
    cannot_run = "Core ML runs only on macOS and iOS"

    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> Any:
        """A ``coremltools.models.MLModel``; input images, outputs named as ``deployable.outputs``, and logits.

        Images of 8 bits go in as pictures, RGB, which Core ML's Image type holds; any others as arrays of float32.
        Class ids are int32, for Core ML has no arrays of 8 bits.

        Raises:
            UserError: images of 8 bits that have other than three channels, or lie channels last.
        """
        import torch

        ct = _tools()
        inputs = _input(ct, deployable, example)
        with torch.no_grad():
            program = torch.export.export(_core_ml_types(deployable), (example.float(),), strict=False)
            program = _without_aliases(program.run_decompositions({}))
        outputs = [ct.TensorType(name=name) for name in (deployable.outputs, "logits")]
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            model = ct.convert(
                program,
                inputs=[inputs],
                outputs=outputs,
                convert_to="mlprogram",
                compute_precision=ct.precision.FLOAT32,
                minimum_deployment_target=ct.target.iOS16,
                skip_model_load=True,
            )
        model.user_defined_metadata.update(metadata)
        return model

    def write(self, model: Any, path: Path) -> tuple[Path, ...]:
        """Write the package, a folder."""
        model.save(str(path))
        # Where each operation came from; nothing that runs the package reads it.
        (path / "executorch_debug_handle_mapping.json").unlink(missing_ok=True)
        return (path,)

    def open(self, path: Path) -> NoReturn:
        """Refuse: there is nothing here that runs it.

        Raises:
            UserError: always.
        """
        raise UserError(f"model {path} is a Core ML package, and {self.cannot_run}; use the run that it was made from")

    def check(self, path: Path, about: About) -> None:
        """Check names, kinds and shapes of input and outputs, the scale of the pixels, and the metadata.

        Raises:
            ValueError: what differs.
        """
        weights = path / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
        if not weights.is_file():
            raise ValueError(f"it lacks its weights, {weights.relative_to(path)}")
        spec = _tools().utils.load_spec(str(path))
        found, expected = _facts(spec), _expected(about)
        for key, value in expected.items():
            if found.get(key) != value:
                raise ValueError(f"{key} is {found.get(key)}, expected {value}")


def _tools() -> Any:
    # It prints which versions of other libraries it was not tested with, and that nothing runs here.
    with contextlib.redirect_stderr(io.StringIO()):
        return require("coremltools", "export to coreml", EXTRA)


def _input(ct: Any, deployable: Deployable, example: Tensor) -> Any:
    import numpy as np
    import torch

    if example.dtype != torch.uint8:
        return ct.TensorType(name="images", shape=tuple(example.shape), dtype=np.float32)
    if deployable.layout != "nchw":
        raise UserError("layout is nhwc, but a Core ML file takes pictures, which have none; leave layout out")
    if example.shape[:2] != (1, 3):
        raise UserError(
            f"{example.shape[0]} images of {example.shape[1]} channels of 8 bits go in; a Core ML file takes pictures "
            "of three channels, one at a time"
        )
    return ct.ImageType(name="images", shape=tuple(example.shape), scale=1 / 255)


def _core_ml_types(deployable: Deployable) -> Any:
    """A module that returns class ids as int32."""
    import torch

    class CoreMlTypes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.deployable = deployable

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            prediction, logits = self.deployable(images)
            return prediction if prediction.is_floating_point() else prediction.to(torch.int32), logits

    return CoreMlTypes().eval()


def _without_aliases(program: ExportedProgram) -> ExportedProgram:
    """The program without operations that only give a tensor another name, which coremltools 9.0 does not know."""
    import torch

    graph = program.graph
    for node in list(graph.nodes):
        if node.target == torch.ops.aten.alias.default:
            before = node.args[0]
            node.replace_all_uses_with(before)
            graph.erase_node(node)
            program.graph_signature.replace_all_uses(node.name, before.name)
    return program


def _facts(spec: Any) -> dict[str, Any]:
    """What a package says of itself, as `_expected` writes it."""
    facts: dict[str, Any] = {f"metadata {key}": value for key, value in spec.description.metadata.userDefined.items()}
    for kind, features in (("input", spec.description.input), ("output", spec.description.output)):
        facts[f"{kind} names"] = [feature.name for feature in features]
        for feature in features:
            facts[f"{kind} {feature.name}"] = _kind_of(feature.type)
    facts["scale of the pixels"] = _scale(spec)
    return facts


def _scale(spec: Any) -> float | None:
    """What the program multiplies its images by before all else, 6 decimals; None where it does something else."""
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    constants = {operation.outputs[0].name: operation for operation in block.operations if operation.type == "const"}
    for operation in block.operations:
        inputs = {key: value.arguments[0].name for key, value in operation.inputs.items() if value.arguments}
        if inputs.get("x") == "images" and operation.type == "mul" and inputs.get("y") in constants:
            values = constants[inputs["y"]].attributes["val"].immediateValue.tensor.floats.values
            return round(values[0], 6) if len(values) == 1 else None
    return None


def _kind_of(feature: Any) -> tuple[Any, ...]:
    if feature.WhichOneof("Type") == "imageType":
        image = feature.imageType
        return (image.ColorSpace.Name(image.colorSpace), image.height, image.width)
    array = feature.multiArrayType
    return (array.ArrayDataType.Name(array.dataType), *array.shape)


def _expected(about: About) -> dict[str, Any]:
    form, classes, channels = about.form, len(about.description.classes), about.description.in_channels
    assert form.size is not None
    batch, (height, width) = form.batch or 1, form.size
    last = form.layout == "nhwc"
    array = (batch, height, width, channels) if last else (batch, channels, height, width)
    scores = (batch, height, width, classes) if last else (batch, classes, height, width)
    labels, pictures = form.outputs == "labels", about.dtype == "uint8"
    return {
        "input names": ["images"],
        "output names": [form.outputs, "logits"],
        "input images": ("RGB", height, width) if pictures else ("FLOAT32", *array),
        f"output {form.outputs}": ("INT32", batch, height, width) if labels else ("FLOAT32", *scores),
        **({"scale of the pixels": round(1 / 255, 6)} if pictures else {}),
        **{f"metadata {key}": value for key, value in about.as_metadata().items()},
    }
