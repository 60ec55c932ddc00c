"""The loop against the same run written by hand in plain PyTorch, and what its options do."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import segdistill
from segdistill import Network, RunFolder, TrainConfig, batch
from segdistill.data.loading import EpochSampler, training_loader
from segdistill.datasets import SyntheticAerial
from segdistill.methods import METHODS
from segdistill.recipe.data import build_data
from segdistill.training.callbacks.callback import Callback
from segdistill.training.loop import Loop
from segdistill.training.step import Step, Terms
from segdistill.training.strategies import launch
from tests.tiny import tiny_network
from tests.training import runs
from tests.training.runs import FAST, SCENES, fingerprint, train_tiny

#: No padding, hence no ignored pixels; seven scenes make three batches of two.
FULL_SCENES = SCENES | {"count": 7, "scale": [1.0, 1.2]}


class FineModel(nn.Module):
    """Logits at half the images' size. No loop in its forward: torch.compile stops at a tap, but not in a loop."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 24, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(24, 24, 3, padding=2, dilation=2)
        self.classifier = nn.Conv2d(24, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.fine(images).relu()
        return self.classifier(self.coarse(fine).relu() + fine)


def build_fine(num_classes: int, in_channels: int) -> Network:
    return Network(FineModel(num_classes), stages=["fine"], embedding="coarse", logits="classifier")


FINE = "python:tests.training.test_loop:build_fine"


def distil(output: Path, teacher: Path, config: TrainConfig, student: str, **options: Any) -> RunFolder:
    settings = {"data": FULL_SCENES, "method": "kd", "device": "cpu", "quiet": True}
    return segdistill.distill(
        teacher=teacher,
        student=f"python:tests.training.runs:{student}",
        output=output,
        train=config,
        **(settings | options),
    )


@pytest.fixture
def beginnings(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """The weights that the runs of a test begin with."""
    seen: list[dict[str, Tensor]] = []
    run = Loop.run

    def recording(self: Loop) -> None:
        seen.append({name: value.clone() for name, value in self.step.learner.student.model.state_dict().items()})
        run(self)

    monkeypatch.setattr(Loop, "run", recording)
    return seen


def normalised(images: Tensor) -> Tensor:
    return images / 255


def by_hand(config: TrainConfig, begin: dict[str, Tensor], teacher: Path) -> tuple[dict[str, Tensor], list[float]]:
    """Distillation by KD in plain PyTorch: the average of the weights, and the loss of each step."""
    data = build_data(FULL_SCENES)
    loader = training_loader(data.train, data.augmentation, config.batch_size, 0, 0)
    student = runs.build_unnormalised(6, 3).model
    student.load_state_dict(begin)
    big = segdistill.load_run(teacher).model.eval()
    matrices = [parameter for parameter in student.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in student.parameters() if parameter.dim() == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "sgd":
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=0.9, foreach=False)
    else:
        optimizer = torch.optim.AdamW(groups, lr=1.0, foreach=False)
    steps, step = config.epochs * 3, 0
    rising = round(config.warmup * steps)
    mean = {name: value.clone() for name, value in student.state_dict().items()}
    losses = []
    for epoch in range(config.epochs):
        loader.sampler.set_epoch(epoch)
        for images, narrow in loader:
            labels = narrow.long()
            share = (
                (step + 1) / rising
                if step < rising
                else 0.5 + 0.5 * math.cos(math.pi * (step - rising) / (steps - rising))
            )
            for group in optimizer.param_groups:
                group["lr"] = config.lr * share
            small = student(normalised(images))
            with torch.no_grad():
                wanted = big(normalised(images)).softmax(1)
            logits = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
            task = F.cross_entropy(logits, labels)
            divergence = F.kl_div(small.log_softmax(1), wanted, reduction="none").sum(1).mean()
            optimizer.zero_grad()
            (task + divergence).backward()
            assert config.clip is not None
            torch.nn.utils.clip_grad_norm_(student.parameters(), config.clip)
            optimizer.step()
            step += 1
            losses.append(float(task + divergence))
            d = min(config.ema, 1 - step**-0.75)
            mean = {name: d * mean[name] + (1 - d) * value for name, value in student.state_dict().items()}
    return mean, losses


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "lr": 0.05},
        {"accumulate": 2},
        {"clip": 0.05, "weight_decay": 0.5},
        {"ema": 0.0},
    ],
    ids=str,
)
def test_a_run_is_the_one_written_by_hand(
    tmp_path: Path, teacher: Path, beginnings: list[dict[str, Tensor]], changes: dict[str, Any]
) -> None:
    """Rate, weight decay, clipping, accumulation, average: twelve steps later the weights are the same."""
    config = replace(FAST, **({"epochs": 4, "warmup": 0.25, "loss": "ce"} | changes))
    run = distil(tmp_path / "run", teacher, config, "build_unnormalised")
    found = load_file(run.path / "model.safetensors")
    expected, losses = by_hand(config, beginnings[0], teacher)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=2e-3, atol=2e-5, msg=name)
        assert float((value - beginnings[0][name]).abs().max()) > 1e-4 or value.dim() == 1  # it has learnt at all
    for epoch, row in enumerate(run.read_history()):
        mean = sum(losses[3 * epoch : 3 * epoch + 3]) / 3
        assert float(row["loss/task"]) + float(row["loss/kd"]) == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("clip", [0.01, 1e6])
def test_gradients_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float) -> None:
    norms: list[float] = []
    make = TrainConfig.build_optimizer

    def watched(self: TrainConfig, *arguments: Any) -> torch.optim.Optimizer:
        optimizer = make(self, *arguments)
        taken = [parameter for group in optimizer.param_groups for parameter in group["params"]]

        def note(*_: Any) -> None:
            norms.append(math.sqrt(sum(float(p.grad.pow(2).sum()) for p in taken if p.grad is not None)))

        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(TrainConfig, "build_optimizer", watched)
    train_tiny(tmp_path / "run", clip=clip)
    assert len(norms) == 6
    if clip < 1:
        assert norms == pytest.approx([clip] * 6, rel=1e-3)
    else:
        assert all(0.01 < norm < 1e6 for norm in norms)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_the_fused_step_is_the_plain_one(name: Any) -> None:
    """Ten steps on the same gradients, to rounding."""
    ours, theirs = tiny_network(seed=3), tiny_network(seed=3)
    fused = TrainConfig(optimizer=name, lr=0.05, weight_decay=0.1).build_optimizer(ours.named_parameters())
    assert all(group["fused"] for group in fused.param_groups)
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    plain: torch.optim.Optimizer
    if name == "adamw":
        plain = torch.optim.AdamW(groups, lr=0.05, foreach=False, fused=False)
    else:
        plain = torch.optim.SGD(groups, lr=0.05, momentum=0.9, foreach=False, fused=False)
    chance = torch.Generator().manual_seed(0)
    for _ in range(10):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=chance)
            other.grad = mine.grad.clone()
        fused.step()
        plain.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


class Looks(TorchDispatchMode):
    """Counts what makes a GPU wait for its queue: values handed to Python, and results of unknown size."""

    WAITING = ("_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "item")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("method", "loss_weights"), [*((name, "fixed") for name in METHODS), ("ka", "auto"), ("brd", "auto")]
)
def test_a_step_looks_at_no_value(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, method: str, loss_weights: Any
) -> None:
    """Forward, backward, clipping, optimiser, average, sums: nothing that a GPU would have to be waited for."""
    # On a GPU labels are not looked at, and the teacher's outputs only in the first step.
    monkeypatch.setattr(batch, "_check_labels", lambda *_: None)
    monkeypatch.setattr(segdistill.Distiller, "_check_teacher", lambda *_: None)
    step, looks = Step.__call__, Looks()

    def counted(self: Step, batches: Any) -> list[Terms]:
        if self.number == 0:  # KA reads once whether its pre-stage is done
            return step(self, batches)
        batch = next(batches)
        with looks:
            return step(self, iter([batch]))

    monkeypatch.setattr(Step, "__call__", counted)
    distil(
        tmp_path / "run", teacher, replace(FAST, epochs=1), "build_student", method=method, loss_weights=loss_weights
    )
    assert looks.found == []


def test_overfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only these images, unchanged, and they are learnt."""
    seen: set[int] = set()
    splits: set[str] = set()
    read = SyntheticAerial.__getitem__

    def noted(self: SyntheticAerial, index: int) -> tuple[Tensor, Tensor]:
        seen.add(index)
        splits.add(self.ids[0].partition("-")[0])
        return read(self, index)

    monkeypatch.setattr(SyntheticAerial, "__getitem__", noted)
    run = train_tiny(tmp_path / "run", FINE, overfit=2, epochs=150, lr=1e-2, ema=0.9, data=SCENES, validate_every=150)
    assert seen == {0, 1}
    assert splits == {"train"}
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["pixel_accuracy"] > 85  # what is left are edges: the logits have half the images' size
    assert run.read_config()["overfit"] == 2


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="no C++ compiler here")
def test_compiled(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same run to rounding, really compiled, once for all its steps, and saved as a plain network."""
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compilations: list[int] = []
    step = Step.__call__

    def counted(self: Step, batches: Any) -> list[Terms]:
        parts = step(self, batches)
        compilations.append(counters["frames"]["ok"])
        return parts

    monkeypatch.setattr(Step, "__call__", counted)
    common = {"data": FULL_SCENES, "teacher": teacher, "student": FINE, "train": FAST, "device": "cpu", "method": "kd"}
    compiled = segdistill.distill(output=tmp_path / "compiled", compile=True, **common)
    assert "torch.compile failed" not in capsys.readouterr().out
    assert compilations[0] > 0
    assert compilations == [compilations[0]] * 9  # none after the first step
    assert counters["frames"]["total"] == counters["frames"]["ok"]
    plain = segdistill.distill(output=tmp_path / "plain", **common)
    for ours, theirs in zip(compiled.read_history(), plain.read_history(), strict=True):
        assert float(ours["loss/task"]) == pytest.approx(float(theirs["loss/task"]), rel=1e-3)
        assert float(ours["loss/kd"]) == pytest.approx(float(theirs["loss/kd"]), rel=1e-3)
    images, outputs = torch.rand(1, 3, 32, 32), []
    for run in (compiled, plain):
        model = FineModel(6)
        model.load_state_dict(load_file(run.path / "model.safetensors"))  # strict, without segdistill
        outputs.append(model.eval()(images))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-2, atol=1e-3)


def test_what_cannot_be_compiled_is_trained_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line says so, and the run is bit for bit the one without --compile, batch statistics and dropout included."""
    plain = distil(tmp_path / "plain", teacher, FAST, "build_student")

    def uncompilable(self: torch.nn.Module) -> None:
        def fail(*_: Any) -> None:
            torch.rand(1)
            raise RuntimeError("no C++ compiler\nin sight")

        self._compiled_call_impl = fail

    monkeypatch.setattr(torch.nn.Module, "compile", uncompilable)
    run = distil(tmp_path / "run", teacher, FAST, "build_student", compile=True, quiet=False)
    line = "torch.compile failed (no C++ compiler in sight); training without it"
    assert line in capsys.readouterr().out.splitlines()
    assert fingerprint(run) == fingerprint(plain)


class Ticking:
    """A step that takes a second and a half by a clock of its own, and learns nothing."""

    def __init__(self, clock: list[float]) -> None:
        self.clock, self.number = clock, 0
        self.learner, self.fabric = nn.Identity(), launch("cpu", "fp32")

    def __call__(self, batches: Any) -> list[Terms]:
        next(batches)
        self.clock[0] += 1.5
        self.number += 1
        return [{"task": torch.tensor(float(self.number))}]

    def rate(self, number: int) -> float:
        return 10.0 - number

    def weights_are_finite(self) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.number}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.number = state["step"]


class Rows(Callback):
    """Keeps what epochs end with, and stops in the midst of one."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.rows: list[dict[str, Any]] = []
        self.stop_at = stop_at

    def after_step(self, loop: Loop) -> None:
        if loop.step.number == self.stop_at:
            raise KeyboardInterrupt

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        self.rows.append(row)


def test_an_epoch_has_its_steps_rate_and_seconds_even_if_it_was_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five steps in epochs of three: the last one is short. Time between two runs is no time of an epoch."""
    clock = [100.0]
    monkeypatch.setattr("segdistill.training.loop.time.perf_counter", lambda: clock[0])

    def loop_of(callback: Rows) -> Loop:
        sampler = EpochSampler(length=3, seed=0, batch_size=1)
        images = dict.fromkeys(((epoch, index) for epoch in range(2) for index in range(3)), 0)
        loader = DataLoader(images, batch_size=1, sampler=sampler, collate_fn=list)  # type: ignore[arg-type]
        return Loop(Ticking(clock), loader, 5, [callback])  # type: ignore[arg-type]

    expected = [
        {"epoch": 1, "seconds": 4.5, "lr": 10.0, "loss/task": 2.0},
        {"epoch": 2, "seconds": 3.0, "lr": 7.0, "loss/task": 4.5},
    ]
    whole = Rows()
    loop_of(whole).run()
    assert whole.rows == expected
    stopped = loop_of(Rows(stop_at=2))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    clock[0] += 1000
    resumed = Rows()
    loop = loop_of(resumed)
    loop.load_state_dict(stopped.state_dict())
    loop.run()
    assert resumed.rows == expected
