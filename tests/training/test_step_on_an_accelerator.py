"""Whole training steps on a GPU that is not there: nothing stays on the CPU, and the host never waits for a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import Distiller, Supervised
from segdistill.training.epoch_terms import EpochTerms
from segdistill.training.step import Step
from segdistill.training.strategies import launch
from tests.accelerator import CUDA, backward, mode, moved
from tests.methods.trial import network
from tests.training.runs import FAST


def batches_on_the_cpu() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.empty(2, 3, 64, 64), torch.empty(2, 64, 64, dtype=torch.long)


def set_gradients(loss: Tensor, *_: Any, **__: Any) -> None:
    for weights, gradient in backward(loss).items():
        weights.grad = gradient if weights.grad is None else weights.grad + gradient


@pytest.mark.parametrize(
    ("method", "changes", "first", "precision"),
    [
        (None, {}, 0, "fp32"),
        ("kd", {"ema": 0.99, "clip": 1.0, "accumulate": 2}, 0, "fp32"),
        ("kd", {"optimizer": "sgd", "ema": 0.99}, 0, "fp32"),
        ("auto", {"ema": 0.99}, 2, "fp32"),
        ("auto", {"ema": 0.99}, 0, "bf16"),
        ("auto", {"backbone_lr": 0}, 0, "fp32"),
    ],
)
def test_steps_stay_on_the_device(method: str | None, changes: dict[str, Any], first: int, precision: str) -> None:
    learner = Supervised(network()) if method is None else Distiller(network(width=8), network(), method)
    if isinstance(learner, Distiller):
        learner._teacher_checked = True  # the first step may wait once to look at the teacher
    fabric = launch("cpu", precision)
    step = Step(learner.train(), replace(FAST, **changes), 10, fabric=fabric, features_first=first)
    fabric._strategy._root_device = CUDA
    fabric.backward = set_gradients
    fake, terms = mode(), EpochTerms()
    for module in [learner] if step.ema is None else [learner, step.ema.module]:
        moved(module, fake)
    with fake:
        source = batches_on_the_cpu()
        for _ in range(4):
            terms.add(step(source))
    state = [value for one in step.optimizer.state.values() for value in one.values() if isinstance(value, Tensor)]
    assert {value.device for value in terms._sums.values()} == {CUDA}
    assert {value.device for value in state if value.dim()} <= {CUDA}
    assert {value.device for value in step.network.state_dict().values()} == {CUDA}
