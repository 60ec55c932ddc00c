"""`TrainConfig`: how a network is trained, and the loss, optimiser and schedule that follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args, get_type_hints

from segdistill.errors import UserError, unknown_name
from segdistill.files import as_typed
from segdistill.recipe.annotations import LossSpec, NamedParameters, Optimizer, TaskLoss, Tensor
from segdistill.recipe.losses import build_task_loss, check_task_loss

#: Epochs of a run where neither epochs nor steps are given.
DEFAULT_EPOCHS = 50


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Args:
        epochs: passes over the training images; 50 unless steps is given.
        steps: optimiser steps of the run (iterations in many papers), in place of epochs; the last epoch may then be
            cut short.
        batch_size: images per optimiser step, over all devices and accumulated batches together.
        accumulate: number of smaller batches into which each batch is split to save memory; they run one after another.
        optimizer: AdamW, or SGD with momentum 0.9 (the papers' choice).
        lr: peak learning rate.
        backbone_lr: factor of the learning rate for the network's backbone. A pre-trained backbone needs a lower rate
            than a new head, often 0.1. 0 freezes it: weights and batch statistics stay as they are.
        weight_decay: weight decay; biases and normalisation layers have none.
        schedule: learning rate over the run, step by step: cosine to 0, poly (1 - t)^0.9, or constant.
        warmup: share of the run, 0 to 1, over which the rate rises linearly from 0.
        clip: largest norm of the gradient; null for none.
        ema: decay of the moving average of the weights. The averaged weights are validated and saved; 0 for no average.
            The average covers few steps at first and more later, so that it also suits short runs.
        loss: loss on labels: balanced (cross-entropy that weighs a class by 1 / ln(1.02 + its share of pixels), since
            mIoU counts all classes alike), ce (cross-entropy), ohem (cross-entropy of the hardest pixels), focal, dice,
            jaccard, tversky, lovasz, python:module:Name, or {name: {argument: value}}; several in one mapping are
            summed: {ce: {}, dice: {}}.
        aux: weight of an auxiliary head's loss on labels, often 0.4; 0 for none. The head gets the second-to-last stage
            of the backbone. It is neither saved nor scored; in a comparison all runs have it.
        precision: bf16 or fp16 autocast, or fp32; auto: bf16 where the hardware supports it, otherwise fp32.
        workers: data-loading processes; by default chosen to suit this machine.
        validate_every: epochs between validations; the last epoch is always validated.
        patience: number of validations without a better mIoU after which the run stops; null: all epochs are trained.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 16
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 1e-3
    backbone_lr: float = 1.0
    weight_decay: float = 1e-2
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    warmup: float = 0.05
    clip: float | None = 10.0
    ema: float = 0.999
    loss: LossSpec = "balanced"
    aux: float = 0.0
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    workers: int | None = None
    validate_every: int = 1
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, expected in get_type_hints(TrainConfig).items():
            object.__setattr__(self, name, as_typed(getattr(self, name)))  # numpy's numbers are numbers, too
            if name != "loss":
                _check_kind(name, getattr(self, name), get_args(expected) or (expected,))
        if self.epochs is not None and self.steps is not None:
            raise UserError(
                f"train.epochs is {self.epochs} and train.steps is {self.steps}, expected only one of them; set the "
                "other to null"
            )
        if self.epochs is None and self.steps is None:
            object.__setattr__(self, "epochs", DEFAULT_EPOCHS)
        if self.epochs is not None and self.epochs < 1:
            raise UserError(f"train.epochs is {self.epochs}, expected at least 1")
        for name in ("batch_size", "accumulate", "validate_every"):
            if getattr(self, name) < 1:
                raise UserError(f"train.{name} is {getattr(self, name)}, expected at least 1")
        if self.loss != "balanced":  # the default needs no look at what torch and other packages bring
            check_task_loss(self.loss)
        if not 0 < self.lr < math.inf:
            raise UserError(f"train.lr is {self.lr}, expected a number above 0")
        if self.steps is not None and self.steps < 1:
            raise UserError(f"train.steps is {self.steps}, expected at least 1, or null")
        if not 0 <= self.backbone_lr < math.inf:
            raise UserError(f"train.backbone_lr is {self.backbone_lr}, expected a factor, 0 or more")
        if not 0 <= self.aux < math.inf:
            raise UserError(f"train.aux is {self.aux}, expected a weight, 0 or more")
        if self.aux and not self.backbone_lr:
            raise UserError(
                f"train.aux is {self.aux} with train.backbone_lr 0: its loss teaches the backbone, which is frozen; "
                "expected one of the two"
            )
        if not 0 <= self.weight_decay < math.inf:
            raise UserError(f"train.weight_decay is {self.weight_decay}, expected 0 or more")
        if self.workers is not None and self.workers < 0:
            raise UserError(f"train.workers is {self.workers}, expected 0 or more")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise UserError(f"train.clip is {self.clip}, expected a number above 0, or null")
        if not 0 <= self.ema < 1:
            raise UserError(f"train.ema is {self.ema}, expected 0 to below 1")
        if self.patience is not None and self.patience < 1:
            raise UserError(f"train.patience is {self.patience}, expected at least 1, or null")
        if not 0 <= self.warmup < 1:
            raise UserError(f"train.warmup is {self.warmup}, expected a share of the run, 0 to below 1")

    def total_steps(self, batches: int) -> int:
        """Optimiser steps of the run, of which each epoch has ``batches``."""
        return self.length * batches if self.steps is None else self.steps

    def total_epochs(self, images: int) -> int:
        """Epochs of the run over so many training images, the last of them perhaps cut short."""
        batches = max(1, images // self.batch_size)
        return -(-self.total_steps(batches) // batches)

    @property
    def unit(self) -> Literal["epochs", "steps"]:
        """What the run is counted in."""
        return "epochs" if self.steps is None else "steps"

    @property
    def length(self) -> int:
        """How many epochs the run has, or steps: see `unit`."""
        length = self.epochs if self.steps is None else self.steps
        assert length is not None
        return length

    def lasting(self, length: int) -> TrainConfig:
        """The same over so many epochs, or steps, with the schedule stretched over them."""
        return replace(self, epochs=length) if self.steps is None else replace(self, steps=length)

    def in_epochs(self, images: int) -> TrainConfig:
        """The same run counted in epochs, where its steps are a whole number of them; else in steps, as it is.

        Args:
            images: training images of an epoch.
        """
        batches, epochs = max(1, images // self.batch_size), self.total_epochs(images)
        return replace(self, epochs=epochs, steps=None) if self.total_steps(batches) == epochs * batches else self

    def build_task_loss(self, pixels_per_class: Tensor) -> TaskLoss:
        """The loss on labels.

        Args:
            pixels_per_class: training pixels of each class, (K,); used by "balanced".
        """
        return build_task_loss(self.loss, pixels_per_class)

    def build_optimizer(self, parameters: NamedParameters, backbone: Collection[str] = ()) -> Optimizer:
        """The optimizer over named parameters; those of one dimension (biases, norms) get no weight decay.

        Args:
            parameters: names and parameters.
            backbone: names of those that are trained at `backbone_lr` times the rate; their groups say so by the key
                ``lr_scale``.
        """
        import torch

        groups: list[dict[str, Any]] = [
            {"params": [], "weight_decay": self.weight_decay},
            {"params": [], "weight_decay": 0.0},
        ]
        if backbone:
            groups += [{**group, "params": [], "lr_scale": self.backbone_lr} for group in groups]
        for name, parameter in parameters:
            if parameter.requires_grad:
                groups[2 * (name in backbone) + (parameter.dim() <= 1)]["params"].append(parameter)
        # One kernel for all parameters. A fused step unscales fp16 gradients by itself, which clipping must come after.
        kinds = {parameter.device.type for group in groups for parameter in group["params"]}
        fused = kinds <= {"cuda", "cpu"} and not (self.precision == "fp16" and self.clip is not None)
        if self.optimizer == "sgd":
            # torch has no fused step for sharded weights.
            fused &= not any(hasattr(parameter, "device_mesh") for group in groups for parameter in group["params"])
            return torch.optim.SGD(groups, lr=self.lr, momentum=0.9, fused=fused)
        return torch.optim.AdamW(groups, lr=self.lr, fused=fused)

    def rate_factor(self, steps: int) -> Callable[[int], float]:
        """The learning rate's factor at each of ``steps`` optimiser steps, 0 to 1."""
        rising = max(1, round(self.warmup * steps))

        def factor(step: int) -> float:
            if step < rising and self.warmup > 0:
                return (step + 1) / rising
            t = min(1.0, (step - rising) / max(1, steps - rising)) if self.warmup > 0 else min(1.0, step / steps)
            if self.schedule == "cosine":
                return 0.5 * (1 + math.cos(math.pi * t))
            if self.schedule == "poly":
                return float((1 - t) ** 0.9)
            return 1.0

        return factor


def _check_kind(name: str, value: Any, expected: tuple[Any, ...]) -> None:
    """Raises a `UserError` unless a value is one of the expected ones, or of one of the expected types."""
    if isinstance(expected[0], str):
        if value not in expected:
            raise unknown_name(f"train.{name}", value, expected)
        return
    # A whole number is as good as any; True is none.
    types = (*expected, int) if float in expected else expected
    if isinstance(value, bool) or not isinstance(value, types):
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in expected)
        raise UserError(f"train.{name} is {value!r}, expected {names}")
