from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from segdistill import TrainConfig, UserError
from segdistill.losses import cross_entropy, ohem_cross_entropy
from tests.tiny import tiny_network


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        ("cosine", lambda t: (1 + math.cos(math.pi * t)) / 2),
        ("poly", lambda t: (1 - t) ** 0.9),
        ("constant", lambda t: 1.0),
    ],
)
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.25])
def test_rate_over_a_run(schedule: Any, formula: Any, warmup: float) -> None:
    """200 steps: a straight line up to the peak, then the formula over what is left of the run."""
    factor = TrainConfig(schedule=schedule, warmup=warmup).rate_factor(200)
    rising = round(200 * warmup)
    expected = [(step + 1) / rising for step in range(rising)]
    expected += [formula((step - rising) / (200 - rising)) for step in range(rising, 200)]
    assert [factor(step) for step in range(200)] == pytest.approx(expected)
    assert max(expected) == 1
    assert factor(0) > 0  # no step is wasted


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_rate_at_the_end(schedule: Any) -> None:
    """The scheduler asks for one step more than there are; shortest runs have rates too."""
    assert TrainConfig(schedule=schedule).rate_factor(50)(50) == pytest.approx(0)
    assert TrainConfig(schedule=schedule).rate_factor(50)(49) > 0
    assert TrainConfig(schedule=schedule).rate_factor(1)(0) == 1


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_biases_and_norms_do_not_decay(name: Any, kind: type) -> None:
    network = tiny_network()
    network.model.stem[0].weight.requires_grad_(False)
    optimizer = TrainConfig(optimizer=name, lr=0.01, weight_decay=0.3).build_optimizer(network.named_parameters())
    assert type(optimizer) is kind
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    for parameter in network.parameters():
        if parameter.requires_grad:
            assert decay.pop(id(parameter)) == (0.3 if parameter.dim() == 4 else 0)
    assert not decay  # nothing else, and nothing frozen
    assert {group["lr"] for group in optimizer.param_groups} == {0.01}


def test_sgd_has_the_papers_momentum() -> None:
    optimizer = TrainConfig(optimizer="sgd").build_optimizer(tiny_network().named_parameters())
    assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_task_losses() -> None:
    logits, labels = torch.randn(2, 3, 8, 8) * 4, torch.randint(0, 3, (2, 8, 8))
    counts = torch.tensor([80, 15, 5])
    inputs = {"logits": logits, "labels": labels, "ignore_index": 255}
    plain = torch.nn.functional.cross_entropy(logits, labels)
    weights = 1 / torch.log(1.02 + counts / 100)
    mean_weight = (weights * counts / 100).sum()
    weighted = (
        torch.nn.functional.cross_entropy(logits, labels, reduction="none") * weights[labels]
    ).mean() / mean_weight
    assert TrainConfig(loss="ce").build_task_loss(counts) is cross_entropy
    assert TrainConfig(loss="ohem").build_task_loss(counts) is ohem_cross_entropy
    balanced = TrainConfig(loss={"balanced": {"adjust": 0.0}}).build_task_loss(counts)
    assert balanced(**inputs).item() == pytest.approx(weighted.item())
    shifted = torch.nn.functional.cross_entropy(logits + 0.5 * weights.log()[:, None, None], labels, reduction="none")
    expected = (shifted * weights[labels]).mean() / mean_weight
    assert TrainConfig().build_task_loss(counts)(**inputs).item() == pytest.approx(expected.item())
    assert weighted.item() != pytest.approx(plain.item())
    both = TrainConfig(loss={"ce": {}, "dice": {}}).build_task_loss(counts)(**inputs)
    dice = TrainConfig(loss="dice").build_task_loss(counts)(**inputs)
    assert both.item() == pytest.approx(plain.item() + dice.item())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("validate_every", 0),
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", math.nan),
        ("lr", math.inf),
        ("weight_decay", -0.1),
        ("weight_decay", math.nan),
        ("warmup", 1.0),
        ("warmup", -0.1),
        ("workers", -1),
    ],
)
def test_out_of_range(key: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"^train.{key} is {value}, expected"):
        TrainConfig(**{key: value})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"optimizer": "SGD"}, "unknown train.optimizer 'SGD': did you mean 'sgd'"),
        ({"schedule": "linear"}, "unknown train.schedule 'linear'"),
        ({"loss": "dise"}, "unknown task loss 'dise': did you mean 'dice'"),
        ({"loss": {"dice": {"smooth": -1.0}}}, "train.loss dice: smooth is -1.0, expected 0 or more"),
        ({"loss": {"ce": {}, "dice": {"smoth": 1.0}}}, "unknown key in train.loss dice: 'smoth'"),
        ({"precision": 16}, "unknown train.precision '16'"),
        ({"lr": "1e-3"}, "train.lr is '1e-3', expected float"),
        ({"epochs": 2.5}, "train.epochs is 2.5, expected int"),
        ({"epochs": True}, "train.epochs is True, expected int"),
        ({"clip": "none"}, "train.clip is 'none', expected float or null"),
    ],
)
def test_of_another_kind(values: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(told)}"):
        TrainConfig(**values)


def test_epochs_or_steps() -> None:
    assert (TrainConfig().epochs, TrainConfig().steps) == (50, None)
    assert (TrainConfig(steps=7).epochs, TrainConfig(steps=7).total_steps(3)) == (None, 7)
    seven, nine = (TrainConfig(steps=steps, batch_size=2).in_epochs(images=6) for steps in (7, 9))
    assert (nine, nine.unit, nine.length) == (TrainConfig(epochs=3, batch_size=2), "epochs", 3)
    assert (seven, seven.unit, seven.length) == (TrainConfig(steps=7, batch_size=2), "steps", 7)
    assert (nine.lasting(5).epochs, seven.lasting(5).steps) == (5, 5)
    told = "train.epochs is 50 and train.steps is 7, expected only one of them; set the other to null"
    with pytest.raises(UserError, match=f"^{told}$"):  # the default, given outright
        TrainConfig(epochs=50, steps=7)


def test_numbers_of_numpy_are_numbers() -> None:
    made = TrainConfig(epochs=np.int64(2), lr=np.float32(0.5), warmup=np.float64(0), backbone_lr=np.int32(1))
    assert made == TrainConfig(epochs=2, lr=0.5, warmup=0.0, backbone_lr=1)
    assert {type(made.epochs), type(made.lr), type(made.warmup), type(made.backbone_lr)} == {int, float}


def test_whole_numbers_will_do() -> None:
    assert TrainConfig(lr=1, clip=5, ema=0).lr == 1
