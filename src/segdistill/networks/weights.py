"""Reading and writing the weights of a plain model: safetensors, and .pth state dicts without unpickling."""

from __future__ import annotations

import pickle
from collections.abc import Collection
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from segdistill.errors import UserError

WEIGHTS_FILE = "model.safetensors"


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write the state dict of ``model`` to ``folder`` / model.safetensors; tensors that share memory once."""
    safetensors.torch.save_model(model, str(folder / WEIGHTS_FILE))


def read_state_dict(file: Path) -> dict[str, Tensor]:
    """Read a .safetensors file, or a .pth / .pt file that holds a state dict and nothing else.

    Raises:
        UserError: missing, damaged, of another kind, or with more in it than tensors.
    """
    if not file.is_file():
        raise UserError(f"weights file {file} does not exist")
    if file.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(file)
        except SafetensorError as error:
            raise UserError(f"weights file {file} is damaged or truncated: {error}") from error
    if file.suffix not in (".pth", ".pt"):
        raise UserError(f"weights file {file}: expected a .safetensors, .pth or .pt file, found '{file.suffix}'")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise UserError(
            f"weights file {file} is damaged, or holds more than a state dict of tensors: {reason}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        keys = f"a dict with keys {_few(state)}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise UserError(f"weights file {file} holds {keys}, expected a state dict: tensors by parameter name")
    return state


def load_weights(model: nn.Module, file: Path) -> None:
    """Load ``file`` into ``model``: every tensor of the one must be in the other, in the same shape.

    Raises:
        UserError: it cannot be read, or does not fit; nothing of it is loaded then.
    """
    state = read_state_dict(file)
    own = model.state_dict()
    present = {own[key].data_ptr() for key in own.keys() & state.keys()}
    # A tensor under two names (tied weights) is written once.
    missing = [key for key in own if key not in state and own[key].data_ptr() not in present]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    refuse_misfit(file, missing, unexpected, shapes)
    model.load_state_dict(state, strict=False)


def refuse_misfit(file: Path, missing: Collection[str], unexpected: Collection[str], shapes: Collection[str]) -> None:
    """Raise if anything is missing, unexpected or of another shape in the weights of ``file``.

    Raises:
        UserError: one sentence with the first few names of each kind.
    """
    found = [
        f"{len(names)} {kind} ({_few(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if found:
        raise UserError(f"weights file {file} does not fit this network: {'; '.join(found)}")


def _few(names: Collection[str]) -> str:
    first = [str(name) for name in names][:3]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "")
