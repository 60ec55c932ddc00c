"""Weights of a plain model: writing them, and reading files of any origin without unpickling code."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from segdistill.errors import UserError, reason

WEIGHTS_FILE = "model.safetensors"

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Of files that weights are read from; all but the first are torch's."""

_CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),  # averaged weights first: they are what was evaluated
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "module", "weights"),
)
"""Keys under which training programs keep a state dict, beside optimiser and epoch."""

_HARMLESS = (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath)
"""Classes that torch may build while it reads tensors: settings that programs keep beside them."""

_UNUSED = ("aux_classifier.", "auxiliary_head.", "classification_head.", "auxlayer.")
"""Parts of published networks that only their own training uses."""


@dataclass
class Weights:
    """Tensors by name, and what was done to the names on the way.

    Attributes:
        file: where they come from.
        tensors: by name.
        notes: what was taken out of the file's own structure, in words.
    """

    file: Path
    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)

    def without_prefix(self, is_own: Callable[[str], bool]) -> None:
        """Take off the names what another program put before them, such as ``module.`` or ``model.``.

        Args:
            is_own: whether the network has a name; the prefix behind which most names are its own goes.

        Raises:
            UserError: the file holds several networks that fit alike.
        """
        plain = {name.replace("_orig_mod.", ""): value for name, value in self.tensors.items()}
        if len(plain) == len(self.tensors) and plain.keys() != self.tensors.keys():
            self.tensors = plain
            self.notes.append("took '_orig_mod.' of a compiled network off the names")
        hits = Counter(prefix for name in self.tensors for prefix, rest in _cuts(name) if is_own(rest))
        if not hits:
            return
        most = max(hits.values())
        best = sorted((prefix for prefix, count in hits.items() if count == most), key=len)
        averaged = [prefix for prefix in best if "ema" in prefix]
        several = len(best) > 1 and most * len(best) >= 0.8 * len(self.tensors)
        if several and "" not in best and not averaged:
            raise UserError(
                f"weights file {self.file} holds {len(best)} networks that fit, under {', '.join(best)}: "
                "keep one of them"
            )
        prefix = "" if "" in best else (averaged or best)[0]
        if prefix:
            left = [name for name in self.tensors if not name.startswith(prefix)]
            kept = {name: value for name, value in self.tensors.items() if name.startswith(prefix)}
            self.tensors = {name.removeprefix(prefix): value for name, value in kept.items()}
            self.notes.append(f"took '{prefix}' off the names")
            if left:
                self.notes.append(f"left out {len(left)} tensors outside '{prefix}' ({few(left)})")

    def without_unused(self, own: Collection[str]) -> None:
        """Leave out heads that only the training of a published network uses."""
        unused = [name for name in self.tensors if name.startswith(_UNUSED) and name not in own]
        if unused:
            self.tensors = {name: value for name, value in self.tensors.items() if name not in set(unused)}
            heads = sorted({name.partition(".")[0] for name in unused})
            self.notes.append(f"left out {', '.join(heads)} ({len(unused)} tensors), which this network does not have")


def write_weights(model: nn.Module, folder: Path) -> None:
    """Write the state dict of ``model`` to ``folder`` / model.safetensors; tensors that share memory once."""
    safetensors.torch.save_model(model, str(folder / WEIGHTS_FILE))


def read_weights(file: Path) -> Weights:
    """Read the tensors of a .safetensors file, or of a file of torch's: a state dict, or a checkpoint that holds one.

    Raises:
        UserError: missing, damaged, of another kind, without tensors, or only readable by running code in it.
    """
    if not file.is_file():
        raise UserError(f"weights file {file} does not exist")
    if file.suffix == ".safetensors":
        try:
            return Weights(file, safetensors.torch.load_file(file))
        except SafetensorError as error:
            raise UserError(f"weights file {file} is damaged or truncated: {reason(error)}") from error
    if file.suffix not in SUFFIXES:
        raise UserError(f"weights file {file} ends in '{file.suffix}', expected one of {', '.join(SUFFIXES)}")
    return _state_in(_unpickled(file), file)


def load_weights(model: nn.Module, file: Path) -> list[str]:
    """Load ``file`` into ``model``: every tensor of the one must be in the other, in the same shape.

    What other programs put around a network's weights is taken off first: a checkpoint's other entries, prefixes of the
    names, heads for training alone.

    Returns:
        What was taken off, a line each.

    Raises:
        UserError: it cannot be read, or does not fit; nothing of it is loaded then.
    """
    weights = read_weights(file)
    own = model.state_dict()
    weights.without_prefix(own.__contains__)
    weights.without_unused(own)
    state = weights.tensors
    present = {own[key].data_ptr() for key in own.keys() & state.keys()}
    # A tensor under two names (tied weights) is written once; old files do not count batches.
    missing = [
        key
        for key in own
        if key not in state and own[key].data_ptr() not in present and not key.endswith("num_batches_tracked")
    ]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    refuse_misfit(file, missing, unexpected, shapes)
    model.load_state_dict(state, strict=False)
    return weights.notes


def refuse_misfit(file: Path, missing: Collection[str], unexpected: Collection[str], shapes: Collection[str]) -> None:
    """Raise if anything is missing, unexpected or of another shape in the weights of ``file``.

    Raises:
        UserError: one sentence with the first few names of each kind.
    """
    found = [
        f"{len(names)} {kind} ({few(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if found:
        raise UserError(f"weights file {file} does not fit this network: {'; '.join(found)}")


def few(names: Iterable[object]) -> str:
    """The first three names, for a message."""
    known = [str(name) for name in names]
    return ", ".join(known[:3]) + (", ..." if len(known) > 3 else "")


def _cuts(name: str) -> Iterable[tuple[str, str]]:
    """A name cut in two at each dot, at most five: ('', 'a.b.c'), ('a.', 'b.c'), ('a.b.', 'c')."""
    parts = name.split(".")
    for count in range(min(len(parts), 6)):
        yield "".join(f"{part}." for part in parts[:count]), ".".join(parts[count:])


def _unpickled(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals(list(_HARMLESS)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError) as error:
        text = str(error)
        if "PytorchStreamReader" in text or "Weights only" not in text:
            what = reason(error) if text else "it ends too early"
            raise UserError(f"weights file {file} is damaged, or no file of torch.save: {what}") from error
        named = re.search(r"GLOBAL (\S+)", text)
        what = f"objects of the class {named[1]}" if named else "more than tensors"
        raise UserError(
            f"weights file {file} holds {what}, not only tensors, and reading those could run code of whoever made "
            "it; where the file was made, save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from error


def _state_in(content: Any, file: Path, path: tuple[str, ...] = ()) -> Weights:
    """The state dict in what a file holds, however deep a training program put it."""
    if isinstance(content, Mapping):
        for key in _CONTAINERS:
            if isinstance(content.get(key), Mapping) and len(path) < 3:
                return _state_in(content[key], file, (*path, key))
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        others = [key for key, value in content.items() if not isinstance(value, Tensor)]
        if tensors and len(others) <= len(tensors):
            notes = [f"read '{' / '.join(path)}' of the file"] if path else []
            return Weights(file, tensors, notes)
    is_dict = isinstance(content, Mapping)
    found = f"a dict with the keys {few(content) or '(none)'}" if is_dict else f"a {type(content).__name__}"
    where = f" under '{' / '.join(path)}'" if path else ""
    raise UserError(
        f"weights file {file} holds {found}{where}, expected tensors by parameter name, or a checkpoint that has them "
        f"under one of {', '.join(_CONTAINERS[:6])}, ..."
    )
