"""ONNX files as teachers of class scores: ``FILE.onnx``, from segdistill or from any other program."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.errors import UserError, missing_package, reason
from segdistill.files import digest
from segdistill.networks.description import Description
from segdistill.networks.network import Network
from segdistill.networks.request import Request

SMALLEST = 1e-6
"""Probabilities below it count as this much: their logarithms stay finite."""

LOGITS, PROBABILITIES = "logits", "probabilities"
OPTIONS = ("output", "outputs", "multiple")
_INPUTS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}


@dataclass(frozen=True)
class _Form:
    """What goes into a file and what comes out.

    Attributes:
        dtype: of its images.
        channels: of its images; None: any.
        size: (height, width) of its images; None: any.
        batch: images at once; None: any.
        channels_last: whether images are (B, H, W, C).
        output: the name of the output that is read.
    """

    dtype: torch.dtype
    channels: int | None
    size: tuple[int, int] | None
    batch: int | None
    channels_last: bool
    output: str


class OnnxModel(nn.Module):
    """An ONNX file that is run by ONNX Runtime, on the CPU.

    Args:
        path: the file; weights that it keeps in a file of their own lie beside it.
        form: what goes in and what comes out.
        outputs: "logits" or "probabilities".
        inside: whether the output is one that the file only has inside.
    """

    def __init__(self, path: Path, form: _Form, outputs: str, inside: bool) -> None:
        super().__init__()
        self.path, self.form, self.outputs, self.inside = path, form, outputs, inside
        # Part of the state, so that what is known of a network's weights is known of the file's.
        self.register_buffer(
            "content", torch.tensor(list(bytes.fromhex(digest(*files_beside(path)))), dtype=torch.uint8)
        )
        self._session: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}  # a session cannot be copied, and is made again

    def run_file(self, images: Tensor) -> Tensor:
        """What the file returns for images (B, C, H, W) of its own size; any number of them."""
        form = self.form
        if self._session is None:
            self._session = _started(self.path, form.output if self.inside else None)
        if form.dtype == torch.uint8:
            images = (255 * images).round().clamp(0, 255)
        arrays = images.detach().to("cpu", form.dtype)
        arrays = arrays.permute(0, 2, 3, 1) if form.channels_last else arrays
        name, found = self._session.get_inputs()[0].name, []
        for part in torch.split(arrays, form.batch or len(arrays)):
            # A file of a fixed batch gets its last image again and again.
            whole = part if form.batch is None else part[torch.arange(form.batch).clamp(max=len(part) - 1)]
            values = self._session.run([form.output], {name: whole.contiguous().numpy()})[0]
            found.append(torch.from_numpy(values)[: len(part)])
        return torch.cat(found).to(images.device)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, or log-probabilities, float32 (B, K, h, w) of images (B, C, H, W)."""
        found = self.run_file(images).float()
        if self.inside:  # padded by the file itself
            found = found[..., : images.shape[-2], : images.shape[-1]]
        return found if self.outputs == LOGITS else found.clamp_min(SMALLEST).log()


def load(request: Request) -> Network:
    """Open ``FILE.onnx``, whose output is logits or probabilities (B, K, h, w) of images (B, C, H, W).

    A file that segdistill exported says what it wants. Of any other: options ``outputs`` (``logits`` or
    ``probabilities``; by default found out), ``output`` (its name; by default the first of four dimensions),
    ``multiple`` (what the sides of images must be divisible by, 32 where the file takes any size), and the ``mean`` and
    ``std`` that every network has; by default ImageNet's.

    Raises:
        UserError: onnxruntime is not installed; no such file, no ONNX file, an unknown option, or a file that takes or
            returns something else.
    """
    path = Path(request.name)
    if not path.is_file():
        raise UserError(f"network file {path} does not exist")
    if request.imagenet or request.encoder is not None:
        raise UserError(f"'{path}' has its own weights, and takes no others")
    _check_options(request)
    session = _started(path, None)
    facts = {key: _json(value) for key, value in session.get_modelmeta().custom_metadata_map.items()}
    ours = "segdistill" in facts
    form = _our_form(path, facts) if ours else _form(path, session, request.options.get("output"))
    channels = form.channels or request.in_channels
    if channels != request.in_channels:
        raise UserError(f"{path} takes {channels} channels, but the images have {request.in_channels}")
    outputs = LOGITS if ours else request.options.get("outputs")
    multiple = int(request.options.get("multiple", 1 if form.size or ours else 32))
    model = OnnxModel(path, form, outputs or LOGITS, inside=ours)
    side = -(-128 // multiple) * multiple
    model.outputs = _checked_outputs(model, torch.rand(2, channels, *(form.size or (side, side))), outputs)
    mean, std = (None, None) if ours else Request(request.spec, "", in_channels=channels).default_normalization()
    network = Network(
        model,
        stages=[],
        embedding=None,
        logits="",
        in_channels=channels,
        multiple=multiple,
        size=form.size,
        mean=mean,
        std=std,
        spec=request.spec,
        probe_size=side,
        write=_refuse_to_write,
        teaches_only="it is an exported file",
    )
    if ours:
        described = Description.from_dict(facts, f"the metadata of {path}")
        network.description = replace(described, mean=None, std=None)  # the file normalises its images itself
    else:
        told = "by ImageNet's mean and standard deviation" if mean else "not at all"
        network.notes.append(
            f"its output is read as {model.outputs}; images are normalised {told} unless ?mean=..&std=.."
        )
    return network


def _check_options(request: Request) -> None:
    unknown = [option for option in request.options if option not in OPTIONS]
    if unknown:
        raise UserError(
            f"option '{unknown[0]}' of '{request.spec}' is unknown, expected {', '.join(OPTIONS)}, mean or std"
        )
    outputs, multiple = request.options.get("outputs"), request.options.get("multiple", 1)
    if outputs not in (None, LOGITS, PROBABILITIES):
        raise UserError(f"outputs of '{request.spec}' is {outputs!r}, expected {LOGITS} or {PROBABILITIES}")
    if not isinstance(multiple, int) or multiple < 1:
        raise UserError(f"multiple of '{request.spec}' is {multiple!r}, expected a whole number of at least 1")


def files_beside(path: Path) -> tuple[Path, ...]:
    """The file, and the one beside it that holds its weights, where there is one."""
    return tuple(file for file in (path, path.with_name(f"{path.name}.data")) if file.is_file())


def _started(path: Path, inside: str | None) -> Any:
    """A session of ONNX Runtime; ``inside`` names a value that is made an output."""
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_package(f"{path}", "onnxruntime", "deploy") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails raises, and is told once
    source: str | bytes = str(path)
    try:
        if inside is not None:
            import onnx

            model = onnx.load_model(path)
            model.graph.output.add(name=inside).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
            source = model.SerializeToString()
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except ImportError as error:
        raise missing_package(f"{path}", "onnx", "deploy") from error
    except Exception as error:  # of the runtime's own kinds
        raise UserError(f"{path} cannot be read as an ONNX file: {reason(error)}") from error


def _our_form(path: Path, facts: Mapping[str, Any]) -> _Form:
    """From the metadata that segdistill writes."""
    try:
        images = facts["images"]
        size, batch = images["size"], images["batch"]
        return _Form(
            torch.uint8 if images["dtype"] == "uint8" else torch.float32,
            int(facts["in_channels"]),
            None if size is None else (int(size[0]), int(size[1])),
            None if batch is None else int(batch),
            images["layout"] == "nhwc",
            LOGITS,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"the metadata of {path} is damaged or old ({error}); export it again") from error


def _form(path: Path, session: Any, output: str | None) -> _Form:
    """From the shapes that a file of another program declares."""
    inputs, outputs = session.get_inputs(), {one.name: one for one in session.get_outputs()}
    first = inputs[0]
    if len(inputs) != 1 or len(first.shape) != 4 or first.type not in _INPUTS:
        told = ", ".join(f"{one.name} {_written(one)}" for one in inputs)
        raise UserError(f"{path} takes {told}, expected one input of images (B, C, H, W), float32, float16 or uint8")
    if output is not None and output not in outputs:
        raise UserError(f"{path} has no output '{output}', expected one of {', '.join(outputs)}")
    fitting = [name for name, one in outputs.items() if len(one.shape or ()) == 4 and "float" in one.type]
    if output is None and not fitting:
        told = ", ".join(f"{name} {_written(one)}" for name, one in outputs.items())
        raise UserError(f"{path} returns {told}, expected logits or probabilities (B, K, h, w)")
    batch, channels, height, width = (side if isinstance(side, int) else None for side in first.shape)
    size = None if height is None or width is None else (height, width)
    return _Form(_INPUTS[first.type], channels, size, batch, False, output or fitting[0])


def _checked_outputs(model: OnnxModel, images: Tensor, named: str | None) -> str:
    """Whether a file returns logits or probabilities, from what it returns for noise."""
    path = model.path
    try:
        found = model.run_file(images)
    except Exception as error:  # of the runtime's own kinds
        shape = tuple(images.shape)
        raise UserError(f"{path} fails on images of shape {shape}: {reason(error)}") from error
    if found.ndim != 4 or not found.is_floating_point():
        kind = str(found.dtype).removeprefix("torch.")
        raise UserError(
            f"{path} returns {kind} of shape {tuple(found.shape)}, expected logits or probabilities (B, K, h, w)"
        )
    if not bool(found.isfinite().all()):
        raise UserError(f"{path} returns NaN or infinite values for images in 0..1")
    total, lowest, highest = found.sum(1), float(found.min()), float(found.max())
    in_range = lowest >= 0 and highest <= 1 + 1e-4
    add_up = bool(((total - 1).abs() < 1e-2).all())
    told = (
        f"values from {lowest:.3g} to {highest:.3g} that add up to {float(total.min()):.3g} to {float(total.max()):.3g}"
    )
    if named == PROBABILITIES and not (in_range and add_up):
        raise UserError(f"{path} returns {told} over the classes, expected probabilities in 0..1 that add up to 1")
    if named is None and in_range and not add_up:
        raise UserError(
            f"{path} returns {told} over the classes: neither logits nor probabilities; if they are logits, give "
            f"{path}?outputs=logits"
        )
    return named or (PROBABILITIES if in_range and add_up else LOGITS)


def _written(value: Any) -> str:
    kind = value.type.removeprefix("tensor(").removesuffix(")")
    return f"{kind} ({', '.join(str(side) for side in value.shape or ())})"


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _refuse_to_write(network: Network, _folder: Path) -> None:
    raise UserError(f"the network of {network.spec} is that file and cannot be saved; copy the file")
