"""How long a network's forward pass takes, of the network alone."""

from __future__ import annotations

import statistics
import time

import torch

from segdistill.device import wait_for
from segdistill.networks.network import Network


def forward_ms(network: Network, size: tuple[int, int], *, repeats: int = 15, warmup: int = 3) -> float:
    """Measure the median time of one forward pass of one image, in milliseconds.

    The image is random, floating, and on the device already; class scores are the result. In float32, on the network's
    own device. Latency as deployed, from raw pixels to class indices in another runtime, is what `segdistill benchmark`
    measures (`segdistill.evaluation.timing`).

    Args:
        network: on any device.
        size: (height, width) of the image; a network that takes images of one size gets one of that.
        repeats: passes that are timed.
        warmup: passes before them that are not.
    """
    device = network.device
    image = torch.rand(1, network.info.in_channels, *(network.info.size or size), device=device)
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
