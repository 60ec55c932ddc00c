"""Weights of a plain model: writing them, and reading files of any origin without unpickling code."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from segdistill.errors import UserError, reason
from segdistill.networks.torch_files import LeftOut, holds_code, read_torch_file, refuse_text

WEIGHTS_FILE = "model.safetensors"

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Of files that weights are read from; all but the first are torch's."""

_AVERAGED = re.compile(r"(^|[._])(ema|swa|shadow)(?=$|[._])|averag|^module_ema")
"""In the names of averaged weights, which are taken before others: they are what was evaluated."""

_CONTAINERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "student", "module", "weights"),
    *("params", "parameters", "checkpoint"),
)
"""Keys under which training programs keep a state dict, beside optimiser and epoch."""

_OTHERS = re.compile(r"optim|sched|scaler|callback|loop|hparam|hyper")
"""In the names of what holds tensors beside a network's."""

_UNUSED = ("aux_classifier.", "auxiliary_head.", "classification_head.", "auxlayer.", "n_averaged")
"""Parts of published networks that only their own training uses, and torch's count of averaged weights."""


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
        averaged = [prefix for prefix in best if _AVERAGED.search(prefix)]
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
    if file.is_dir():
        raise UserError(f"{file} is a folder, expected a file of weights, or a folder that holds {WEIGHTS_FILE}")
    if not file.is_file():
        if file.with_name(f"{file.name}.index.json").is_file():
            raise UserError(
                f"{file.parent} holds its weights in several files, expected {file.name}; give the folder as the "
                f"network itself, transformers:{file.parent}, or save it anew in one file"
            )
        raise UserError(f"weights file {file} does not exist")
    suffix = file.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"weights file {file} ends in '{file.suffix}', expected one of {', '.join(SUFFIXES)}")
    refuse_text(file)
    if suffix == ".safetensors":
        try:
            weights = Weights(file, safetensors.torch.load_file(file))
        except SafetensorError as error:
            raise UserError(f"weights file {file} is damaged or truncated: {reason(error)}") from error
    else:
        weights = _state_in(*read_torch_file(file), file)
    _refuse_unsound(weights)
    return weights


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
    of_backbone = (
        "" if own.keys() & state.keys() else f"; weights of its backbone alone are given as {{encoder: {file}}}"
    )
    refuse_misfit(file, missing, unexpected, shapes, of_backbone)
    model.load_state_dict(state, strict=False)
    return weights.notes


def refuse_misfit(
    file: Path, missing: Collection[str], unexpected: Collection[str], shapes: Collection[str], hint: str = ""
) -> None:
    """Raise if anything is missing, unexpected or of another shape in the weights of ``file``.

    Args:
        file, missing, unexpected, shapes: what is wrong with which tensors.
        hint: the end of the sentence.

    Raises:
        UserError: one sentence with the first few names of each kind.
    """
    found = [
        f"{len(names)} {kind} ({few(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if found:
        raise UserError(f"weights file {file} does not fit this network: {'; '.join(found)}{hint}")


def few(names: Iterable[object]) -> str:
    """The first three names, for a message."""
    known = [str(name) for name in names]
    return ", ".join(known[:3]) + (", ..." if len(known) > 3 else "")


def _cuts(name: str) -> Iterable[tuple[str, str]]:
    """A name cut in two at each dot, at most five: ('', 'a.b.c'), ('a.', 'b.c'), ('a.b.', 'c')."""
    parts = name.split(".")
    for count in range(min(len(parts), 6)):
        yield "".join(f"{part}." for part in parts[:count]), ".".join(parts[count:])


def _refuse_unsound(weights: Weights) -> None:
    """Refuse weights that would load and give wrong labels: not numbers, infinite, or quantised to integers."""
    broken, quantised = [], []
    for name, value in weights.tensors.items():
        is_weight = name.endswith(("weight", "bias", "running_mean", "running_var"))
        if is_weight and not value.is_floating_point():
            quantised.append(f"{name}: {str(value.dtype).removeprefix('torch.')}")
        elif value.is_floating_point():
            numbers = value.float() if value.itemsize == 1 else value
            # Infinity is a value like others in masks of attention.
            if bool(numbers.isnan().any()) or (is_weight and bool(numbers.isinf().any())):
                broken.append(name)
    if broken:
        raise UserError(
            f"weights file {weights.file} holds NaN or infinity in {len(broken)} of {len(weights.tensors)} tensors "
            f"({few(broken)}), as a training that diverged leaves them; expected weights of a sound checkpoint"
        )
    if quantised:
        raise UserError(
            f"weights file {weights.file} holds integers in {len(quantised)} of {len(weights.tensors)} tensors "
            f"({few(quantised)}), as quantisation makes them; expected the floating-point weights before it"
        )


def _state_in(content: Any, left_out: list[str], file: Path) -> Weights:
    """The state dict in what a file holds, however deep a training program put it.

    Args:
        content: what torch read.
        left_out: classes whose objects torch did not read.
        file: for messages.
    """
    found = _found(content, ())
    if found is not None:
        found.file = file
        if left_out:
            found.notes.append(f"left out what is no tensor in the file ({few(left_out)})")
        return found
    pickled = next((one for one in (content, *_values(content)) if isinstance(one, LeftOut)), None)
    if pickled is not None:
        raise holds_code(file, f"objects of the class {pickled.name}")
    is_dict = isinstance(content, Mapping)
    told = f"a dict with the keys {few(content) or '(none)'}" if is_dict else f"a {type(content).__name__}"
    raise UserError(
        f"weights file {file} holds {told}, expected tensors by parameter name, or a checkpoint that has them "
        f"under one of {', '.join(_CONTAINERS[:4])}, ema, ..."
    )


def _values(content: Any) -> Iterable[Any]:
    return [content[key] for key in _CONTAINERS if key in content] if isinstance(content, Mapping) else []


def _found(content: Any, path: tuple[str, ...]) -> Weights | None:
    """The likeliest state dict in an entry of a checkpoint; None where it has none, or several alike."""
    if not isinstance(content, Mapping) or len(path) > 3:
        return None
    inner = [key for key, value in content.items() if isinstance(key, str) and isinstance(value, Mapping)]
    inner = [key for key in inner if not _OTHERS.search(key.lower())]
    averaged = [] if _is_swapped(content) else [key for key in inner if _AVERAGED.search(key.lower())]
    notes: list[str] = []
    for key in dict.fromkeys([*averaged, *(key for key in _CONTAINERS if key in inner)]):
        found = _found(content[key], (*path, key))
        if found is not None:
            found.notes[:0] = notes
            return found
        if key in averaged:
            notes.append(f"left out '{key}', which holds no tensors by parameter name")
    if any(isinstance(content.get(key), LeftOut) for key in _CONTAINERS):
        return None
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors and 2 * len(tensors) >= len(content):
        return Weights(Path(), tensors, [f"read '{' / '.join(path)}' of the file"] if path else [])
    unknown = [_found(content[key], (*path, key)) for key in inner if key not in averaged and key not in _CONTAINERS]
    several = [one for one in unknown if one is not None and any("." in name for name in one.tensors)]
    return several[0] if len(several) == 1 else None


def _is_swapped(content: Mapping[Any, Any]) -> bool:
    """Whether it is a checkpoint of mmengine, which keeps the averaged weights in ``state_dict``."""
    meta = content.get("meta")
    return "message_hub" in content or (isinstance(meta, Mapping) and "mmengine_version" in meta)
