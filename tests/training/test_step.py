"""One optimiser step: its random numbers, its rates, and what it gives back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import Distiller, Supervised, TrainConfig, load_network
from segdistill.methods import KD
from segdistill.networks.backbone import backbone_parameters
from segdistill.training.step import Step
from segdistill.training.strategies import launch
from tests.tiny import tiny_network
from tests.training.runs import FAST


def batches(count: int) -> Any:
    chance = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.rand(2, 3, 32, 32, generator=chance), torch.randint(0, 5, (2, 32, 32), generator=chance)


def step_of(config: TrainConfig, *, seed: int = 0, steps: int = 10) -> Step:
    learner = Supervised(tiny_network(4, seed=2, classes=5)).train()
    return Step(learner, config, steps, fabric=launch("cpu", "fp32"), seed=seed)


def states_seen(seed: int) -> list[list[float]]:
    """Random numbers at the beginning of each part of two steps; something else draws in between."""
    step = step_of(replace(FAST, accumulate=2), seed=seed)
    seen: list[list[float]] = []

    def note(*_: Any) -> None:
        with torch.random.fork_rng([]):
            seen.append(torch.rand(3).tolist())

    step.learner.register_forward_pre_hook(note)
    source = batches(4)
    for _ in range(2):
        step(source)
        torch.rand(7)
    return seen


def test_random_numbers_depend_on_seed_step_and_part_alone() -> None:
    first, again, other = states_seen(0), states_seen(0), states_seen(1)
    assert first == again
    everything = [tuple(numbers) for numbers in first + other]
    assert len(set(everything)) == 8  # no two parts, steps or seeds share theirs


def test_a_step_in_the_midst_draws_as_if_it_had_come_in_turn() -> None:
    step = step_of(FAST)
    drawn = []
    step.learner.register_forward_pre_hook(lambda *_: drawn.append(torch.initial_seed()))
    step(batches(1))
    step(batches(1))
    later = step_of(FAST)
    later.load_state_dict(step.state_dict() | {"step": 1})
    later.learner.register_forward_pre_hook(lambda *_: drawn.append(torch.initial_seed()))
    later(batches(1))
    assert drawn[2] == drawn[1] != drawn[0]


def test_terms_of_every_part_come_back_without_gradients() -> None:
    step = step_of(replace(FAST, accumulate=2))
    parts = step(batches(2))
    assert [set(terms) for terms in parts] == [{"task"}, {"task"}]
    assert not any(value.requires_grad for terms in parts for value in terms.values())
    assert step.number == 1


def test_two_parts_make_the_step_of_one_batch() -> None:
    """The mean of both gradients, one step of the optimiser, one update of the average."""
    whole, parted = (step_of(replace(FAST, optimizer="sgd", lr=0.1, accumulate=parts, ema=0.5)) for parts in (1, 2))
    [(images, labels)] = list(batches(1))
    for step in (whole, parted):
        step.learner.eval()  # batch statistics would be of half a batch
    whole(iter([(images, labels)]))
    parted(iter([(images[:1], labels[:1]), (images[1:], labels[1:])]))
    for ours, theirs in zip(whole.network.parameters(), parted.network.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_groups_may_have_a_rate_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor of the parameter group, on top of the schedule."""
    make = TrainConfig.build_optimizer

    def scaled(self: TrainConfig, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = make(self, *arguments)
        optimizer.param_groups[0]["lr_scale"] = 0.1
        return optimizer

    monkeypatch.setattr(TrainConfig, "build_optimizer", scaled)
    step = step_of(replace(FAST, lr=0.5, warmup=0.0, schedule="poly"), steps=4)
    for number in range(3):
        step(batches(1))
        rate = 0.5 * (1 - number / 4) ** 0.9
        assert [group["lr"] for group in step.optimizer.param_groups] == pytest.approx([0.1 * rate, rate])


def test_what_is_missing_from_a_state_is_refused() -> None:
    step = step_of(FAST)
    state = step.state_dict()
    state["learner"] = {name: value for name, value in state["learner"].items() if "head" not in name}
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading state_dict for Supervised: Missing key\(s\)"):
        step.load_state_dict(state)


def test_teacher_outputs_in_the_batch_spare_the_teacher() -> None:
    teacher, student = tiny_network(8, seed=1, classes=5), tiny_network(4, seed=2, classes=5)
    distiller = Distiller(teacher, student, KD())
    step = Step(distiller, FAST, 10, fabric=launch("cpu", "fp32"))
    [(images, labels)] = list(batches(1))
    outputs: dict[str, Tensor] = {name: value.half() for name, value in distiller.teacher_outputs(images).items()}
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("the teacher was run"))
    [terms] = step(iter([(images, labels, outputs)]))
    assert set(terms) == {"task", "kd"}


@pytest.mark.parametrize(
    "spec", ["smp:FPN:resnet18", "torchvision:lraspp_mobilenet_v3_large", "transformers:segformer"]
)
def test_the_backbone_is_what_the_stages_depend_on(spec: str) -> None:
    network = load_network(spec, num_classes=3)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = backbone_parameters(network)
    head = {name for name, _ in network.named_parameters()} - found
    assert {name.split(".")[1] for name in found} <= {"encoder", "backbone", "segformer"}
    assert head
    assert not any("encoder" in name.split(".")[1] or "backbone" in name for name in head)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())


def test_the_backbone_learns_at_its_own_rate() -> None:
    """SGD without momentum's past: the first step is rate x gradient, and the backbone's a tenth of it."""
    config = replace(FAST, optimizer="sgd", lr=0.1, weight_decay=0.0, clip=None, ema=0, warmup=0.0)
    moved = []
    for factor in (1.0, 0.1, 0.0):
        step = step_of(replace(config, backbone_lr=factor))
        before = {name: value.clone() for name, value in step.learner.student.named_parameters()}
        step(batches(1))
        moved.append({name: value - before[name] for name, value in step.learner.student.named_parameters()})
    backbone = backbone_parameters(step.learner.student)
    assert 0 < len(backbone) < len(before)
    whole, tenth, none = moved
    for name in before:
        share = 0.1 if name in backbone else 1.0
        torch.testing.assert_close(tenth[name], share * whole[name], rtol=1e-3, atol=1e-6)
        assert bool((none[name] == 0).all()) == (name in backbone)


def test_a_large_sum_in_half_precision_is_no_infinite_weight() -> None:
    """A memory of 22,000 unit vectors in float16 has a sum beyond 65,504, and not one bad value."""
    step = step_of(FAST)
    step.learner.register_buffer("memory", torch.full((2000, 64), 1.0, dtype=torch.float16))
    assert step.weights_are_finite()
    step.learner.memory[3, 5] = float("inf")
    assert not step.weights_are_finite()
    step.learner.memory[3, 5] = float("nan")
    assert not step.weights_are_finite()
