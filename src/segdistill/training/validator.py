"""Scores of a network on the validation split of a run, on all its processes."""

from __future__ import annotations

import torch
from lightning_fabric import Fabric
from rich.console import Console

from segdistill.data.evaluation import EvaluationLoader, scored_parts
from segdistill.metrics.scores import ConfusionCounts, Scores, scores_from_confusion
from segdistill.networks.network import Network
from segdistill.progress import tracked
from segdistill.training.sharding import whole_network


class Validator:
    """Scores networks on validation images, in the precision of the run; counts are summed over all processes.

    Args:
        loader: this process's validation images.
        classes: names of the classes.
        ignore_index: label of pixels that do not count.
        fabric: device, precision and processes.
        console: where the bar is drawn.
        bar: whether there is one.
    """

    def __init__(
        self,
        loader: EvaluationLoader,
        classes: tuple[str, ...],
        ignore_index: int,
        *,
        fabric: Fabric,
        console: Console,
        bar: bool,
    ) -> None:
        self.loader = loader
        self.classes = classes
        self.fabric = fabric
        self.console = console
        self.bar = bar
        self.counts = ConfusionCounts(len(classes), ignore_index).to(fabric.device)

    def __call__(self, network: Network, text: str = "validating") -> Scores:
        """Scores of a network; every process must call this.

        Args:
            network: on its device.
            text: stands beside the bar.
        """
        network.eval()
        self.counts.reset()
        # Processes have different numbers of batches, so that none may wait for another's weights.
        with whole_network(network), torch.inference_mode(), self.fabric.autocast():
            shown = tracked(self.loader, text, len(self.loader), self.console, self.bar)
            for part in scored_parts(network, self.loader, shown):
                self.counts.update(part.scores, part.labels.to(self.fabric.device, non_blocking=True))
        return scores_from_confusion(self.counts.confusion(), self.classes)
