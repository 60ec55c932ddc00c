"""A network that is given as an object: a hash of its weights, and a name for messages."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import nn

from segdistill.files import bytes_of
from segdistill.networks.network import Network
from segdistill.networks.wrapping import as_network


def network_digest(model: nn.Module) -> str:
    """Hash a network's parameters and buffers, its normalisation included, with their names, types and shapes.

    The code of a model of one's own is not in it.

    Args:
        model: a `Network`, or a plain model that `as_network` can wrap.

    Returns:
        32 hexadecimal digits.
    """
    network = as_network(model)
    hasher = hashlib.blake2b(digest_size=16)
    hasher.update(bytes_of(f"{network.spec} {type(network.model).__qualname__}"))
    for name, values in [*network.named_parameters(), *network.named_buffers()]:
        hasher.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        hasher.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


def network_label(source: object) -> str:
    """Name a network, or several, in a message: the folder or spec that it is given as, or what its object is.

    Example:
        >>> network_label("runs/teacher"), network_label(nn.Identity())
        ('runs/teacher', 'object (Identity)')
        >>> network_label(["runs/a", "runs/b"])
        'runs/a + runs/b'
    """
    if isinstance(source, list | tuple | Mapping):
        return " + ".join(map(network_label, source))
    if isinstance(source, Network):
        kind = type(source.model if type(source) is Network else source)
        return f"object ({source.spec or kind.__name__})"
    return f"object ({type(source).__name__})" if isinstance(source, nn.Module) else str(source)
