"""Images per second of the training loop, as a ratio to a loop written by hand that does the same maths.

Both take the same prepared batches through the same networks with the same loss (cross-entropy and KD), optimiser,
schedule, clipping and average of the weights, in the same precision and memory layout. The loop by hand knows nothing
of segdistill. Both begin with the same weights, and their first losses are compared.

    python benchmarks/throughput.py                      # the shipped recipe's pair, 128 x 128, batch 16
    python benchmarks/throughput.py --device cuda --size 512 512 --batch 32 --steps 100
"""

from __future__ import annotations

import argparse
import copy
import math
import os
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from rich.console import Console
from rich.table import Table
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import Distiller, TrainConfig, load_network
from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import EpochSampler, training_loader
from segdistill.datasets import SyntheticAerial
from segdistill.device import choose_device, choose_precision, wait_for
from segdistill.methods import KD
from segdistill.training.callbacks.callback import Callback
from segdistill.training.callbacks.progress_bar import ProgressBar
from segdistill.training.callbacks.stop_signals import StopSignals
from segdistill.training.callbacks.validation import Validation
from segdistill.training.loop import STEPS_BETWEEN_LOOKS, Loop
from segdistill.training.step import Step
from segdistill.training.strategies import launch

RECIPES = Path(__file__).parent.parent / "recipes" / "idd-lite"


class Prepared:
    """Stands in for a loader whose batches are all in memory."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]], sampler: EpochSampler) -> None:
        self.batches = batches
        self.sampler = sampler

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


class ByHand:
    """Distillation by KD as one would write it for two models of segmentation_models_pytorch."""

    def __init__(self, teacher: nn.Module, student: nn.Module, config: TrainConfig, steps: int, device: torch.device):
        self.teacher = teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self.student = student.to(device, memory_format=torch.channels_last).train()
        self.mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)
        matrices = [parameter for parameter in student.parameters() if parameter.dim() > 1]
        vectors = [parameter for parameter in student.parameters() if parameter.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        fused = device.type in ("cuda", "cpu")
        self.optimizer = torch.optim.AdamW(groups, lr=config.lr, fused=fused)
        self.ema = ModelEmaV3(student, decay=config.ema, use_warmup=True, warmup_power=3 / 4) if config.ema else None
        self.config, self.steps, self.device = config, steps, device
        self.step = 0

    def rate(self) -> float:
        """Warm-up, then cosine."""
        rising = round(self.config.warmup * self.steps)
        if self.step < rising:
            return self.config.lr * (self.step + 1) / rising
        return self.config.lr * 0.5 * (1 + math.cos(math.pi * (self.step - rising) / (self.steps - rising)))

    def small_and_full(self, model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores before and after up-sampling."""
        classifier, *up = model.segmentation_head
        small = classifier(model.decoder(model.encoder(images)))
        return small, nn.Sequential(*up)(small)

    def epoch(self, batches: list[tuple[Tensor, Tensor]], dtype: torch.dtype | None) -> float:
        """One pass; the sum of the first step's losses."""
        first = 0.0
        for batch in batches:
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate()
            images, labels = (value.to(self.device, non_blocking=True) for value in batch)
            labels = labels.long()
            images = images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                normalised = (images.float() / 255 - self.mean) / self.std
                with torch.no_grad():
                    wanted, _ = self.small_and_full(self.teacher, normalised)
                small, full = self.small_and_full(self.student, normalised)
                wanted = F.interpolate(wanted.float(), size=small.shape[-2:], mode="bilinear", align_corners=False)
                task = F.cross_entropy(full.float(), labels, ignore_index=255)
                divergence = F.kl_div(
                    small.float().log_softmax(1), wanted.log_softmax(1), reduction="none", log_target=True
                )
                loss = task + divergence.sum(1).mean()
            loss.backward()
            if self.config.clip is not None:
                nn.utils.clip_grad_norm_(self.student.parameters(), self.config.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.step += 1
            if self.ema is not None:
                self.ema.update(self.student, step=self.step)
            first = first or float(loss.detach())
        return first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=20, help="in each turn")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; all by default")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    precision = choose_precision(options.precision, device)
    dtype = torch.bfloat16 if precision == "bf16" else None

    scenes = SyntheticAerial(count=options.batch * options.steps, size=options.size)
    loader = training_loader(scenes, Augmentation(options.size, scale=(1.0, 1.0)), options.batch, seed=0, workers=0)
    batches = [(images, labels) for images, labels in loader]
    teacher_spec = yaml.safe_load((RECIPES / "teacher.yaml").read_text())["network"]
    # Without dropout, so that the first losses must agree.
    student_spec = yaml.safe_load((RECIPES / "distill.yaml").read_text())["student"] + "?decoder_dropout=0.0"
    classes = len(scenes.classes)
    torch.manual_seed(0)
    teacher, student = (load_network(spec, num_classes=classes) for spec in (teacher_spec, student_spec))

    config = TrainConfig(epochs=options.turns + 1, batch_size=options.batch, ema=options.ema, workers=0)
    steps = config.epochs * options.steps
    by_hand = ByHand(copy.deepcopy(teacher.model), copy.deepcopy(student.model), config, steps, device)
    seconds: dict[str, list[float]] = {"by hand": [], "segdistill": []}
    clock = Clock()
    loop = _loop(Distiller(teacher, student, KD()).to(device), config, steps, batches, precision, clock)
    for callback in loop.callbacks:
        callback.before_run(loop)
    # In turn, so that a change of the machine's speed touches both alike; the first turn only warms up.
    for turn in range(options.turns + 1):
        began = time.perf_counter()
        first = by_hand.epoch(batches, dtype)
        wait_for(device)
        seconds["by hand"].append(time.perf_counter() - began)
        loop.run_epoch()
        seconds["segdistill"].append(clock.seconds)
        if turn == 0:
            _compare(first, clock.first)
    for callback in loop.callbacks:
        callback.close()
    for times in seconds.values():
        del times[0]
    _show(seconds, options, f"{teacher_spec} -> {student_spec}", precision, device)


class Clock(Callback):
    """Times the steps of an epoch, waiting for the device; what follows the last step is not timed."""

    def __init__(self) -> None:
        self.first: float | None = None
        self.seconds = 0.0

    def before_epoch(self, loop: Loop) -> None:
        self._began = time.perf_counter()

    def after_step(self, loop: Loop) -> None:
        if self.first is None:
            self.first = sum(float(value) for value in loop.parts[-1].values())
        if loop.batch == loop.batches:
            wait_for(loop.step.fabric.device)
            self.seconds = time.perf_counter() - self._began


def _loop(
    distiller: Distiller,
    config: TrainConfig,
    steps: int,
    batches: list[tuple[Tensor, Tensor]],
    precision: str,
    clock: Clock,
) -> Loop:
    device = next(distiller.student.parameters()).device
    step = Step(distiller, config, steps, fabric=launch(device, precision))
    sampler = EpochSampler(len(batches) * config.batch_size, 0, config.batch_size)
    bar = ProgressBar(Console(quiet=True), False, config.batch_size, Validation(cast(Any, None), 1))
    signals = StopSignals(cast(Any, None), STEPS_BETWEEN_LOOKS)
    return Loop(step, cast(Any, Prepared(batches, sampler)), steps, [bar, signals, clock])


def _compare(by_hand: float, ours: float | None) -> None:
    if ours is None or not math.isclose(ours, by_hand, rel_tol=1e-2):
        raise SystemExit(f"the two do not do the same: first loss {by_hand:.5f} by hand, {ours:.5f} here")


def _show(
    seconds: Mapping[str, list[float]], options: argparse.Namespace, pair: str, precision: str, device: torch.device
) -> None:
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = (
        f"{pair}, {options.size[0]} x {options.size[1]}, batch {options.batch}, {precision}, ema {options.ema}, "
        f"{options.turns} turns of {options.steps} steps, {place} of {os.cpu_count()} cores"
    )
    table = Table(title=title, title_justify="left")
    for column in ("loop", "images/s", "of the one by hand", "lowest", "highest"):
        table.add_column(column, justify="left" if column == "loop" else "right")
    images = options.batch * options.steps
    for name, times in seconds.items():
        ratios = [hand / mine for mine, hand in zip(times, seconds["by hand"], strict=True)]
        cells = (f"{statistics.median(ratios):.3f}", f"{min(ratios):.3f}", f"{max(ratios):.3f}")
        table.add_row(name, f"{images / statistics.median(times):.1f}", *cells)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
