"""One optimiser step of a learner: all that it takes, in one object that the loop, benchmarks and estimates share."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.wrappers import _FabricOptimizer
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from segdistill.data.seeding import keyed_seed
from segdistill.distiller import Distiller, Supervised
from segdistill.networks.backbone import backbone_parameters
from segdistill.networks.network import Network
from segdistill.recipe.train_config import TrainConfig
from segdistill.training.balance import Balance
from segdistill.training.freezing import freeze_backbone
from segdistill.training.sharding import (
    gathered,
    load_optimizer,
    load_whole,
    mesh_of,
    shard,
    whole_network,
    whole_state,
)

#: Weighted loss terms by name, scalars without gradients.
Terms = dict[str, Tensor]


class Kept:
    """Teacher outputs from a cache, hidden from Lightning's conversion of all inputs to half precision."""

    def __init__(self, teacher_outputs: Mapping[str, Tensor], device: torch.device) -> None:
        self.teacher_outputs = {
            name: value.to(device, non_blocking=True).float() for name, value in teacher_outputs.items()
        }


class Objective(nn.Module):
    """From a batch to its weighted loss terms; what processes share the gradients of."""

    def __init__(self, learner: Distiller | Supervised, balance: Balance, *, in_parts: bool) -> None:
        super().__init__()
        self.learner = learner
        self.balance = balance
        self.in_parts = in_parts

    def forward(self, images: Tensor, labels: Tensor, kept: Kept | None) -> dict[str, Tensor]:
        """Weighted terms by name, scalars with gradients; their sum is the loss."""
        images = images.contiguous(memory_format=torch.channels_last)
        out = self.learner(images, labels) if kept is None else self.learner(images, labels, kept.teacher_outputs)
        alone = isinstance(self.learner, Distiller) and self.learner.features_alone
        losses: dict[str, Tensor] = out.losses if alone else self.balance(out.losses, out.features)
        if not self.in_parts:
            return losses
        zero = self._zero(out.logits)
        return {name: term + zero for name, term in losses.items()}

    def _zero(self, logits: Tensor) -> Tensor:
        """0, with a gradient of 0 for what sits a part out: processes wait for the gradients of all weights."""
        beside = [weights for name, weights in self.learner.named_parameters() if not name.startswith("student.")]
        sums = [weights.float().sum() for weights in beside if not hasattr(weights, "device_mesh")]  # not sharded ones
        return 0.0 * torch.stack([logits.float().mean(), *sums]).sum()


class Step:
    """Makes one optimiser step at each call: forward, backward, accumulation, clipping, schedule, averaged weights.

    Random numbers in a step (dropout and the like) depend on the seed, the process, the step's number and the part of
    the batch alone, so that a run can stop and resume anywhere.

    Args:
        learner: what is trained.
        config: optimiser, learning rate and schedule, accumulation, clipping and averaging of the weights. With a
            `backbone_lr` of 0 the student's backbone is frozen, and stays so afterwards.
        steps: optimiser steps of the whole run, over which the learning rate's schedule extends.
        features_first: so many of them, at the beginning, learn features alone (`Distiller.features_alone`). They are a
            part of their own: schedule, optimiser state and average begin anew after them, from the averaged weights.
        fabric: device, precision and processes.
        seed: seed of the random numbers.
        balance: weighs the loss terms; by default they keep the weights that their methods give them.

    Attributes:
        number: steps made so far.
        features_first: as given.
        ema: the average of the student's weights, if the configuration asks for one.

    Example:
        >>> from segdistill import Supervised, TrainConfig, load_network
        >>> from segdistill.training.strategies import launch
        >>> learner = Supervised(load_network("smp:FPN:resnet18", num_classes=4))
        >>> step = Step(learner, TrainConfig(), steps=100, fabric=launch("cpu", "fp32"))
        >>> batch = torch.rand(2, 3, 64, 64), torch.randint(0, 4, (2, 64, 64))
        >>> [terms] = step(iter([batch]))
        >>> sorted(terms), step.number
        (['task'], 1)
    """

    def __init__(
        self,
        learner: Distiller | Supervised,
        config: TrainConfig,
        steps: int,
        *,
        fabric: Fabric,
        seed: int = 0,
        balance: Balance | None = None,
        features_first: int = 0,
    ) -> None:
        self.learner = learner.to(memory_format=torch.channels_last)
        self.config = config
        self.fabric = fabric
        self.seed = seed
        self.balance = Balance({}) if balance is None else balance
        self.number = 0
        mesh = mesh_of(fabric)
        self._frozen = freeze_backbone(learner.student) if config.backbone_lr == 0 else []
        self._to_save = None if mesh is None else copy.deepcopy(learner.student).cpu()
        self.ema = (
            ModelEmaV3(learner.student, config.ema, use_warmup=True, warmup_power=3 / 4, foreach=mesh is None)
            if config.ema
            else None
        )
        # Before the weights are sharded, which a forward on one process would not survive.
        scaled = config.backbone_lr not in (0, 1)
        backbone = {f"student.{name}" for name in backbone_parameters(learner.student)} if scaled else set()
        self.objective = fabric.setup_module(Objective(learner, self.balance, in_parts=features_first > 0))
        if mesh is not None and self.ema is not None:
            shard(cast(Network, self.ema.module), mesh)
        self.optimizer = config.build_optimizer(learner.named_parameters(), backbone)
        self.features_first = features_first
        self._rate_factors = [config.rate_factor(part) for part in (features_first, steps - features_first)]
        self._stepper = cast(_FabricOptimizer, fabric.setup_optimizers(self.optimizer))

    @property
    def network(self) -> Network:
        """The network that is validated and saved: the average of the student's weights, or the student itself."""
        network = self.learner.student if self.ema is None else self.ema.module
        assert isinstance(network, Network)
        return network

    def network_to_save(self) -> Network:
        """`network` with all its weights. Every process must call this."""
        if self._to_save is None:
            return self.network
        self._to_save.load_state_dict(gathered(self.network.state_dict()))
        return self._to_save

    def rate(self, number: int) -> float:
        """The learning rate of a step, counted from 0."""
        first, second = self._rate_factors
        since = number - self.features_first
        return self.config.lr * (first(number) if since < 0 else second(since))

    def __call__(self, batches: Iterator[Any]) -> list[Terms]:
        """Makes one optimiser step.

        Args:
            batches: gives (images, labels) or (images, labels, teacher outputs); ``accumulate`` of them are taken.

        Returns:
            The weighted loss terms of each batch taken; in a run on several processes, this process's own.
        """
        if self.features_first:
            self._choose_part()
        rate = self.rate(self.number)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        for module in self._frozen:  # each time: ``train()`` on the learner puts them into training mode
            module.eval()
        parts = [self._backward(next(batches), part) for part in range(self.config.accumulate)]
        if self.config.clip is not None:
            # A gradient that is not finite comes from the loss, whose terms the loop checks.
            self.fabric.clip_gradients(
                self.objective, self._stepper, max_norm=self.config.clip, error_if_nonfinite=False
            )
        self._stepper.step()
        self._stepper.zero_grad()
        self.number += 1
        since = self.number - self.features_first
        if self.ema is not None:
            self.ema.update(self.learner.student, step=since if since > 0 else self.number)
        if since > 0:
            self.balance.close_step(lambda value: self.fabric.all_reduce(value, reduce_op="mean"))
        return parts

    def _choose_part(self) -> None:
        """Before a step: whether it learns features alone; the first one that does not begins anew."""
        assert isinstance(self.learner, Distiller)
        self.learner.features_alone = self.number < self.features_first
        if self.number == self.features_first:
            self.optimizer.state.clear()
            if self.ema is not None:
                self.learner.student.load_state_dict(self.ema.module.state_dict())

    def _backward(self, batch: Any, part: int) -> Terms:
        """Adds the gradients of one part of the step's batch; its terms."""
        images, labels, *rest = batch
        torch.manual_seed(keyed_seed(self.seed, self.fabric.global_rank, self.number, part))
        device = self.fabric.device
        kept = Kept(rest[0], device) if rest else None
        waiting = part + 1 < self.config.accumulate
        # Gradients at several places of one forward: more than weights that come and go are made for.
        measured = whole_network(self.learner) if self.balance.measuring else contextlib.nullcontext()
        with measured, self.fabric.no_backward_sync(self.objective, enabled=waiting):
            terms = self.objective(images.to(device, non_blocking=True), labels.to(device, non_blocking=True), kept)
            loss = torch.stack(list(terms.values())).sum()
            self.fabric.backward(loss / self.config.accumulate)
        return {name: value.detach() for name, value in terms.items()}

    def weights_are_finite(self) -> bool:
        """Whether no weight or buffer of the learner is NaN or infinite. Every process must call this."""
        # A part of a sharded tensor may be empty, which has a sum and no maximum.
        values = [value for value in self.learner.state_dict().values() if value.is_floating_point()]
        # In single precision at least: the sum of a large buffer in half precision is infinite by itself.
        sums = gathered([value.abs().sum(dtype=torch.promote_types(value.dtype, torch.float32)) for value in values])
        sums = [value.to(self.fabric.device) for value in sums]
        return bool(torch.isfinite(torch.stack(sums)).all())

    def state_dict(self) -> dict[str, Any]:
        """All that later steps depend on, whole on the first process. Every process must call this."""
        return {
            "step": self.number,
            "learner": whole_state(self.learner),
            "optimizer": gathered(self.optimizer.state_dict()),
            "ema": None if self.ema is None else whole_state(self.ema.module),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "balance": self.balance.state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave.

        Raises:
            RuntimeError, ValueError, KeyError, AttributeError: if it belongs to another network or method.
        """
        load_whole(self.learner, state["learner"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.ema is not None:
            load_whole(self.ema.module, state["ema"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.balance.load(state["balance"], self.fabric.device)
        self.number = state["step"]
