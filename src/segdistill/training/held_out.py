"""The distillation loss of a network on images that take no part in its training."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader

from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import TrainingSamples, end_with_python, loader_options, training_batch
from segdistill.data.seeding import keyed_seed
from segdistill.device import wait_for
from segdistill.distiller import Distiller
from segdistill.networks.network import Network
from segdistill.networks.size import untouched
from segdistill.progress import tracked
from segdistill.recipe.data import UNCHANGED, Data
from segdistill.training.sharding import whole_network
from segdistill.training.teacher_source import TeacherSource


@dataclass(frozen=True)
class HeldOutLoss:
    """The mean distillation loss over held-out images; lower is better.

    Attributes:
        terms: each weighted term by name.
    """

    terms: dict[str, float]

    @property
    def loss(self) -> float:
        """The sum of the terms."""
        return sum(self.terms.values())


def held_out_loader(
    data: Data, batch_size: int, workers: int | None, *, seed: int, rank: int = 0, world: int = 1
) -> DataLoader[Any]:
    """Batches of crops of the validation images, always the same ones, not augmented.

    Each process takes every so many-th batch; one for which there is none takes the first, which counts nothing there.

    Args:
        data: splits and augmentation, of which the crop is taken.
        batch_size: images of each batch, whatever the number of processes.
        workers: see `training_loader`.
        seed: of the crops.
        rank, world: number of this process among all.
    """
    augmentation = Augmentation(data.augmentation.crop, **UNCHANGED, ignore_index=data.val.ignore_index)
    # The teacher runs here: images as it sees them.
    samples = TrainingSamples(data.val_for_teacher(), augmentation, seed, views=1, teacher_scale=data.teacher_scale)
    keys = [(0, index) for index in range(len(samples))]
    batches = [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)]
    loader: DataLoader[Any] = DataLoader(
        samples, batch_sampler=batches[rank::world] or batches[:1], collate_fn=training_batch, **loader_options(workers)
    )
    return end_with_python(loader)


class HeldOut:
    """Measures a network's distillation loss, in the precision of the run, over all its processes.

    The teacher runs here even where its outputs on the training images come from a cache.

    Args:
        learner: its student, or the average of its weights, is measured.
        source: the learner's teacher.
        loader: made by `held_out_loader`.
        counts: whether this process's batches count.
        fabric: device, precision and processes.
        console: where the bar is drawn.
        bar: whether there is one.
        seed: of what methods draw at random.
    """

    def __init__(
        self,
        learner: Distiller,
        source: TeacherSource,
        loader: DataLoader[Any],
        *,
        counts: bool,
        fabric: Fabric,
        console: Console,
        bar: bool,
        seed: int,
    ) -> None:
        self.learner = learner
        self.source = source
        self.loader = loader
        self.counts = counts
        self.fabric = fabric
        self.console = console
        self.bar = bar
        self.seed = seed

    def __call__(self, network: Network) -> HeldOutLoss:
        """The loss of a network; every process must call this.

        Args:
            network: the student, or one of the same kind on its device.
        """
        sums: dict[str, Tensor] = {}
        images = 0
        with self._measuring(network):
            for terms, count in self._batches(
                tracked(self.loader, "validating", len(self.loader), self.console, self.bar)
            ):
                images += count
                for name, value in terms.items():
                    sums[name] = sums.get(name, torch.zeros((), device=value.device)) + count * value.float()
        own = torch.stack([*sums.values(), torch.tensor(float(images), device=self.fabric.device)])
        everywhere = self.fabric.all_reduce(own * self.counts, reduce_op="sum")
        assert isinstance(everywhere, Tensor)
        *totals, number = everywhere.tolist()
        return HeldOutLoss({name: total / number for name, total in zip(sums, totals, strict=True)})

    def estimated_seconds(self, network: Network) -> float:
        """How long a call takes, from its first two batches; readers start with the first."""
        seconds = 0.0
        with self._measuring(network):
            began = time.perf_counter()
            for _ in itertools.islice(self._batches(self.loader), 2):
                wait_for(self.fabric.device)
                seconds, began = time.perf_counter() - began, time.perf_counter()
        return seconds * len(self.loader)

    def _batches(self, batches: Iterable[Any]) -> Iterator[tuple[dict[str, Tensor], int]]:
        """The terms of each batch and the number of its images."""
        device = self.fabric.device
        for images, labels in batches:
            shown = images.to(device).contiguous(memory_format=torch.channels_last)
            yield self.learner(shown, labels.to(device)).terms, len(images)

    @contextlib.contextmanager
    def _measuring(self, network: Network) -> Iterator[None]:
        """Within, the learner holds ``network``, learns nothing and remembers nothing."""
        learner, student = self.learner, self.learner.student
        teacher = self.source.load().to(self.fabric.device)
        remembered = [(buffer, buffer.clone()) for buffer in learner.methods.buffers()]
        learner.student = network
        try:
            with contextlib.ExitStack() as stack:
                for module in (network, learner.methods, teacher):
                    stack.enter_context(whole_network(module))
                stack.enter_context(untouched(learner))
                stack.enter_context(self.fabric.autocast())
                torch.manual_seed(keyed_seed(self.seed, 0, 0, 0))
                yield
        finally:
            learner.student = student
            for buffer, value in remembered:
                buffer.copy_(value)
