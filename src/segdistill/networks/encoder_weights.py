"""Weights of a backbone alone, from a file: for machines without internet, and for backbones trained elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.weights import few, read_weights

LEAST = 0.75
"""Share of a backbone's tensors that a file must fill."""


def load_encoder(encoder: nn.Module, file: Path, spec: str, advice: str = "") -> list[str]:
    """Fill a backbone with the weights of a file: of the same backbone, in any network or as an image classifier.

    Names may be those of timm, torchvision or smp: what stands before the backbone's own names (``encoder.``,
    ``backbone.``, ``features.``, ``model.``) does not matter. What the file holds beside the backbone, such as a
    classifier, is left out. Where the images have another number of channels than the file's, the first convolution is
    repeated over the channels and scaled, as timm does.

    Args:
        encoder: the backbone; its own names are taken without a leading ``model.``.
        file: .safetensors, .pth, .pt, .bin or .ckpt.
        spec: of the network, for messages.
        advice: end of the message where the file fills too little.

    Returns:
        A report, a line each: how many tensors were filled, what was left out.

    Raises:
        UserError: the file cannot be read, or fills less than three quarters of the backbone.
    """
    weights = read_weights(file)
    own = {_comparable(name): (name, value) for name, value in encoder.state_dict().items()}
    weights.tensors = {_comparable(name): value for name, value in weights.tensors.items()}
    weights.without_prefix(own.__contains__)
    found = {own[name][0]: value for name, value in weights.tensors.items() if name in own}
    notes = _adapt_first_convolution(encoder, found)
    state = encoder.state_dict()
    shapes = {name: value for name, value in found.items() if value.shape != state[name].shape}
    fitting = {name: value for name, value in found.items() if name not in shapes}
    counted = [name for name in state if not name.endswith("num_batches_tracked")]
    missing = [name for name in counted if name not in fitting]
    left = [name for name in weights.tensors if name not in own]
    check_share(len(counted) - len(missing), len(counted), missing, shapes, state, file, spec, advice)
    encoder.load_state_dict(fitting, strict=False)
    return [*weights.notes, *notes, report(file, len(counted), missing, left)]


def check_share(
    filled: int,
    count: int,
    missing: list[str],
    shapes: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    file: Path,
    spec: str,
    advice: str = "",
) -> None:
    """Refuse a file that fills too little of a backbone.

    Raises:
        UserError: less than `LEAST` of ``count`` tensors are filled.
    """
    if filled >= LEAST * count:
        return
    other = [f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}" for name, value in shapes.items()]
    told = f"of another shape are {few(other)}" if other else f"missing are {few(missing)}"
    raise UserError(
        f"weights file {file} fills {filled} of the {count} tensors of the backbone of '{spec}': {told}; expected the "
        f"weights of the same backbone{advice}"
    )


def report(file: Path, count: int, missing: list[str], left: list[str]) -> str:
    """What a file filled, in one line."""
    told = f"{file.name}: {count - len(missing)} of {count} tensors of the backbone loaded"
    if missing:
        told += f"; still random: {few(missing)}"
    if left:
        told += f"; left out {len(left)} of the file ({few(left)})"
    return told


def _comparable(name: str) -> str:
    """A name without what libraries add: timm's feature networks write ``stages_0`` for ``stages.0``."""
    return re.sub(r"_(\d+)(?=\.|$)", r".\1", name.removeprefix("model."))


def _adapt_first_convolution(encoder: nn.Module, found: dict[str, Tensor]) -> list[str]:
    """The first convolution for another number of channels than the file's."""
    from timm.models import adapt_input_conv

    name, own = next(((n, p) for n, p in encoder.state_dict().items() if p.ndim == 4), ("", None))
    value = found.get(name)
    if own is None or value is None or value.ndim != 4 or value.shape == own.shape:
        return []
    if value.shape[0] != own.shape[0] or value.shape[2:] != own.shape[2:] or value.shape[1] != 3:
        return []
    found[name] = adapt_input_conv(own.shape[1], value)
    return [f"adapted the first convolution from 3 to {own.shape[1]} channels"]
