"""Milliseconds that a network takes for one image."""

from __future__ import annotations

import statistics
import time

import torch

from segdistill.device import wait_for
from segdistill.networks.network import Network


def latency_ms(network: Network, size: tuple[int, int], *, repeats: int = 15, warmup: int = 3) -> float:
    """Median time of one forward pass of one image of ``size`` (height, width), in milliseconds.

    In float32, on the network's own device, after ``warmup`` passes that are not counted.
    """
    device = next(network.parameters()).device
    image = torch.rand(1, network.info.in_channels, *size, device=device)
    was_training = network.training
    network.eval()
    times = []
    with torch.inference_mode():
        for turn in range(warmup + repeats):
            began = time.perf_counter()
            network(image)
            wait_for(device)
            if turn >= warmup:
                times.append(time.perf_counter() - began)
    network.train(was_training)
    return 1000 * statistics.median(times)
