"""Where the class scores are in what a model returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.taps import describe

Place = tuple[str | int, ...]
"""Keys and indices that lead from a model's output to its class scores; () where the output is these."""

_NAMES = ("out", "logits")
"""What torchvision and transformers call them."""


def value_at(output: Any, place: Place) -> Tensor | None:
    """The tensor (B, K, H, W) at ``place`` of a model's output; None where there is none.

    Example:
        >>> import torch
        >>> value_at({"out": torch.zeros(1, 2, 4, 4)}, ("out",)).shape
        torch.Size([1, 2, 4, 4])
    """
    value = output
    for key in place:
        if isinstance(value, Mapping):
            value = dict(value).get(key)  # those of transformers refuse what they do not hold
        elif isinstance(value, list | tuple) and isinstance(key, int):
            value = value[key] if key < len(value) else None
        else:
            value = getattr(value, str(key), None)
    return value if isinstance(value, Tensor) and value.ndim == 4 else None


def usual_place(output: Any) -> Place | None:
    """Where most models have the class scores: the output itself, ``out`` or ``logits``; None for any other."""
    usual: tuple[Place, ...] = ((), *((name,) for name in _NAMES))
    return next((place for place in usual if value_at(output, place) is not None), None)


def place_of_logits(output: Any, scores: Tensor) -> Place:
    """Find the class scores in a model's output.

    Args:
        output: a tensor, or a dict, list, tuple or output class that holds tensors.
        scores: what the logits tap saw in the same forward, (B, K, h, w). Of several maps of K channels, those of
            auxiliary heads among them, the one that agrees with it is meant.

    Raises:
        UserError: no tensor (B, K, H, W) in it.
    """
    place = usual_place(output)
    if place is not None:
        return place
    found = [(where, value) for where, value in _tensors(output) if value.shape[1] == scores.shape[1]]
    if not found:
        raise UserError(
            f"the model returns {describe(output)}, expected logits (B, K, H, W), or a dict, list or tuple with them"
        )
    return min(found, key=lambda entry: _distance(entry[1], scores))[0]


def _tensors(output: Any, place: Place = ()) -> Iterator[tuple[Place, Tensor]]:
    if isinstance(output, Tensor):
        if output.ndim == 4:
            yield place, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, (*place, key))
    elif isinstance(output, list | tuple):
        for index, value in enumerate(output):
            yield from _tensors(value, (*place, index))


def _distance(logits: Tensor, scores: Tensor) -> float:
    size = logits.shape[-2:]
    resized = scores if size == scores.shape[-2:] else F.interpolate(scores, size=size, mode="bilinear")
    return float((logits - resized).abs().mean())
