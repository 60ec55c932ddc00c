"""How big a network is: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def untouched(model: nn.Module, training: bool = False) -> Iterator[None]:
    """Run ``model`` inside without gradients; its modes, its statistics and the random state come back.

    Args:
        model: the model.
        training: run it in training mode; by default it is in eval mode inside.
    """
    statistics = [(buffer, buffer.clone()) for buffer in model.buffers()] if training else []
    modes = [(module, module.training) for module in model.modules()]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    model.train(training)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
            yield
    finally:
        for buffer, value in statistics:
            buffer.copy_(value)
        # Module by module, for a part may have been in eval mode (a frozen encoder) inside one that trains.
        for module, training in modes:
            module.training = training


def example_images(model: nn.Module, in_channels: int, size: tuple[int, int]) -> torch.Tensor:
    """One black image (1, in_channels, H, W) on the device of ``model`` and in its floating dtype."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(1, in_channels, *size, device=parameter.device, dtype=parameter.dtype)


def count_parameters(network: nn.Module) -> int:
    """The number of values in the parameters of ``network``, trained and frozen alike.

    Example:
        >>> count_parameters(nn.Conv2d(3, 8, kernel_size=3))
        224
    """
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, size: int | tuple[int, int], in_channels: int | None = None) -> int:
    """Multiply-accumulates of one image through ``network``: half the FLOPs of all convolutions and products.

    Args:
        network: a `Network`, or any module that takes images (B, C, H, W).
        size: height and width of the image in pixels; one number for a square.
        in_channels: channels of the image; by default what the `Network` says.

    Example:
        >>> count_macs(nn.Conv2d(3, 8, kernel_size=1), size=10, in_channels=3)
        2400
    """
    height, width = (size, size) if isinstance(size, int) else size
    channels = in_channels if in_channels is not None else network.info.in_channels  # type: ignore[union-attr]
    images = example_images(network, cast(int, channels), (height, width))
    with untouched(network), FlopCounterMode(display=False) as counter:
        network(images)
    return int(counter.get_total_flops()) // 2
