"""The part of a network that a pre-training has trained, in a file of its own beside the network's own files."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from segdistill.files import write_atomically
from segdistill.networks.weights import few, read_weights, refuse_misfit

PRETRAINED_FILE = "pretrained.safetensors"
"""In the folder of a pre-trained network: the trained tensors, by their names in the model."""


def trained_tensors(model: nn.Module, trained: Collection[str]) -> dict[str, Tensor]:
    """The trained parameters of ``model``, and the statistics of the layers that they belong to.

    Args:
        model: a plain model.
        trained: names of its trained parameters.
    """
    parameters = [name for name, _ in model.named_parameters()]
    state = model.state_dict()
    chosen = [
        name for name in state if name in trained or (name not in parameters and _beside(name, parameters, trained))
    ]
    # Cloned, since tensors that share memory cannot be written.
    return {name: state[name].detach().cpu().clone().contiguous() for name in chosen}


def write_pretrained(model: nn.Module, trained: Collection[str], folder: Path) -> None:
    """Write the trained part of ``model`` into the folder where it was saved; arguments as for `trained_tensors`."""
    content = safetensors.torch.save(trained_tensors(model, trained))
    write_atomically(folder / PRETRAINED_FILE, lambda file: file.write(content))


def load_pretrained(model: nn.Module, file: Path) -> list[str]:
    """Load the trained part of a network into ``model``; the rest stays as it is.

    Returns:
        What was loaded and what was not, in a line.

    Raises:
        UserError: the file cannot be read, or is of another network.
    """
    tensors = read_weights(file).tensors
    own = model.state_dict()
    unexpected = [name for name in tensors if name not in own]
    shapes = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name].shape)}"
        for name, value in tensors.items()
        if name in own and value.shape != own[name].shape
    ]
    refuse_misfit(file, [], unexpected, shapes)
    model.load_state_dict(tensors, strict=False)
    fresh = [name for name in own if name not in tensors and not name.endswith("num_batches_tracked")]
    told = f"{file.parent}: pre-trained {_parts(tensors)} loaded, {len(tensors)} of {len(own)} tensors"
    return [f"{told}; not pre-trained: {_parts(fresh)}" if fresh else told]


def _beside(buffer: str, parameters: Iterable[str], trained: Collection[str]) -> bool:
    """Whether the nearest parameters around a buffer are trained ones."""
    place = buffer
    while "." in place:
        place = place.rpartition(".")[0]
        around = [name for name in parameters if name.startswith(f"{place}.")]
        if around:
            return any(name in trained for name in around)
    return False


def _parts(names: Iterable[str]) -> str:
    """The parts of a model that names begin with, for a message."""
    return few(dict.fromkeys(name.partition(".")[0] for name in names))
