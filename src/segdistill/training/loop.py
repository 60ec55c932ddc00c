"""The training loop: a step depends on the recipe and its number alone, so that a run can stop and go on anywhere."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.wrappers import _FabricOptimizer
from rich.console import Console
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader

from segdistill.data.loading import EpochSampler
from segdistill.data.seeding import keyed_seed
from segdistill.distiller import Distiller, Supervised
from segdistill.errors import UserError
from segdistill.metrics.scores import ConfusionCounts, Scores, scores_from_confusion
from segdistill.networks.network import Network
from segdistill.progress import Bar, tracked
from segdistill.recipe.train_config import TrainConfig
from segdistill.run_folder import RunFolder
from segdistill.training.balance import MEASURED_STEPS, Balance
from segdistill.training.checkpoint import save_checkpoint
from segdistill.training.failures import short
from segdistill.training.sharding import gathered, mesh_of, scattered, scattered_optimizer, shard, whole_network
from segdistill.training.strategies import Stopped, StopSignals
from segdistill.training.watch import Watch

#: Steps between looks at whether a loss has become NaN, and lines in the log; each look makes a GPU wait for its queue.
STEPS_BETWEEN_LOOKS = 20


class Kept:
    """TeacherOutputs from a cache, hidden from Lightning's conversion of all inputs to half precision."""

    def __init__(self, teacher_outputs: Mapping[str, Tensor], device: torch.device) -> None:
        self.teacher_outputs = {
            name: value.to(device, non_blocking=True).float() for name, value in teacher_outputs.items()
        }


class Objective(nn.Module):
    """From a batch to its weighted loss terms: what processes share the gradients of."""

    def __init__(self, learner: Distiller | Supervised, balance: Balance) -> None:
        super().__init__()
        self.learner = learner
        self.balance = balance

    def forward(self, images: Tensor, labels: Tensor, kept: Kept | None) -> dict[str, Tensor]:
        """Terms by name, scalars; their sum is the loss."""
        images = images.contiguous(memory_format=torch.channels_last)
        out = self.learner(images, labels) if kept is None else self.learner(images, labels, kept.teacher_outputs)
        return self.balance(out.terms, out.features)


@dataclass(frozen=True)
class Loaders:
    """Where batches come from: training ones through an `EpochSampler`, validation ones in order."""

    train: DataLoader[tuple[Any, ...]]
    val: DataLoader[tuple[Any, ...]]


class TrainingLoop:
    """Takes a learner through its epochs and keeps what they make in a run folder.

    Chance in a step (dropout and the like) depends on the seed and the step's number alone, order and augmentation on
    seed, epoch and sample; so a run that was stopped, wherever, goes the way of an unbroken one from its last
    checkpoint on.

    The network kept is that of the last epoch, and beside it, in ``best/``, that of the best one: choosing an epoch by
    its validation score and then reporting that score flatters whichever run fluctuates most.

    Args:
        learner: on its device already.
        config: hyper-parameters.
        classes: names of the classes.
        loaders: training and validation batches.
        fabric: the processes that share the run.
        folder: where results go.
        recipe: the complete recipe, kept with every checkpoint.
        seed: of everything random.
        balance: weighs the terms.
        console: for the line of each epoch.
        bar: whether there is a progress bar.
        loggers: where curves go.
        checkpoint_minutes: between checkpoints within an epoch.
        score_teacher: gives the teacher's mIoU on the validation split, or None where there is none to ask.
        on_balanced: told the factors once they are fixed.
    """

    def __init__(
        self,
        learner: Distiller | Supervised,
        config: TrainConfig,
        classes: tuple[str, ...],
        loaders: Loaders,
        *,
        fabric: Fabric,
        folder: RunFolder,
        recipe: Mapping[str, Any],
        seed: int,
        balance: Balance,
        console: Console,
        bar: bool,
        loggers: list[Logger],
        checkpoint_minutes: float,
        score_teacher: Callable[[], float | None],
        on_balanced: Callable[[Mapping[str, float]], None],
    ) -> None:
        self.learner = learner.to(memory_format=torch.channels_last)
        self.config = config
        self.classes = classes
        self.loaders = loaders
        self.fabric = fabric
        self.folder = folder
        self.recipe = recipe
        self.seed = seed
        self.balance = balance
        self.console = console
        self.bar = bar
        self.loggers = list(loggers)
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.score_teacher = score_teacher
        self.on_balanced = on_balanced
        sampler = loaders.train.sampler
        assert isinstance(sampler, EpochSampler)
        self.sampler = sampler
        mesh = mesh_of(fabric)
        self._to_save = None if mesh is None else copy.deepcopy(learner.student).cpu()
        self.ema = (
            ModelEmaV3(learner.student, config.ema, use_warmup=True, warmup_power=3 / 4, foreach=mesh is None)
            if config.ema
            else None
        )
        self.objective = fabric.setup_module(Objective(learner, balance))
        if mesh is not None and self.ema is not None:
            shard(cast(Network, self.ema.module), mesh)
        self.optimizer = config.build_optimizer(learner.named_parameters())
        self.rate_factor = config.rate_factor(config.epochs * sampler.batches)
        self._stepper = cast(_FabricOptimizer, fabric.setup_optimizers(self.optimizer))
        self.counts = ConfusionCounts(len(classes), learner.ignore_index).to(fabric.device)
        self.watch = Watch(lambda line: console.out(line, highlight=False))

        self.epoch = 0
        self.batch = 0
        self.step = 0
        self.scores: Scores | None = None
        self.best: dict[str, float] = {}
        self.teacher_miou: float | None = None
        self._stale = 0
        self._sums: dict[str, Tensor] = {}
        self._bad: Tensor | None = None
        self._seconds = 0.0

    @property
    def network(self) -> Network:
        """The network that is validated and kept: the average of the student's weights, or the student itself."""
        network = self.learner.student if self.ema is None else self.ema.module
        assert isinstance(network, Network)
        return network

    def _network_to_save(self) -> Network:
        """`network` with all its weights; all processes must come here."""
        if self._to_save is None:
            return self.network
        self._to_save.load_state_dict(gathered(self.network.state_dict()))
        return self._to_save

    @property
    def finished(self) -> bool:
        """Whether no epoch is left, or validations have long brought nothing better."""
        patience = self.config.patience
        return self.epoch >= self.config.epochs or (patience is not None and self._stale >= patience)

    def run(self) -> Scores:
        """Goes through the epochs that are left.

        Returns:
            The last epoch's scores.

        Raises:
            UserError: if a loss or the weights become NaN.
            Stopped: after SIGTERM or Ctrl-C, with all saved.
        """
        self.learner.train()
        with StopSignals() as signals, Bar(self.console, self.bar, self.config.batch_size) as bar:
            while not self.finished:
                self._run_epoch(signals, bar)
        if self.balance.measuring:
            line = (
                f"loss_weights: auto measures over {MEASURED_STEPS} steps, the run had {self.step}: no term was scaled"
            )
            self.console.out(line, highlight=False)
        for logger in self.loggers:
            logger.finalize("success")  # what is still in their queues; a notebook goes on after the run
        if self.scores is None:  # the run was killed between its last checkpoint and its scores
            self.scores = self.validate()
        self.watch.classes(self.scores, self.config.loss)
        return self.scores

    def validate(self) -> Scores:
        """Scores of `network` on the validation split, counts summed over all processes."""
        return self.score(self.network, "validating")

    def score(self, network: Network, text: str) -> Scores:
        """Scores of any network on the validation split, ``text`` beside the bar."""
        network.eval()
        self.counts.reset()
        loader = self.loaders.val
        # Processes have different numbers of batches, so that none may wait for another's weights.
        with whole_network(network), torch.inference_mode(), self.fabric.autocast():
            for images, labels in tracked(loader, text, len(loader), self.console, self.bar):
                logits = network(images.to(self.fabric.device, non_blocking=True))
                self.counts.update(logits, labels.to(self.fabric.device, non_blocking=True))
        return scores_from_confusion(self.counts.confusion(), self.classes)

    def _run_epoch(self, signals: StopSignals, bar: Bar) -> None:
        if self.batch == 0:
            self._sums, self._bad, self._seconds = {}, None, 0.0
        began = time.perf_counter() - self._seconds
        saved = time.perf_counter()
        self.sampler.set_epoch(self.epoch, skipped=self.batch)
        text = f"epoch {self.epoch + 1}/{self.config.epochs}"
        bar.start(text, self.sampler.batches, self.batch)
        batches = iter(self.loaders.train)
        self.learner.train()
        first_rate = self.config.lr * self.rate_factor(self.epoch * self.sampler.batches)
        while self.batch < self.sampler.batches:
            terms = self._step(batches)
            self.batch += 1
            if self.step % STEPS_BETWEEN_LOOKS == 0:
                self._check_finite()
                self._log({f"loss/{name}": float(value) for name, value in terms.items()})
            bar.advance(self._state(terms) if bar.due() else None)
            if self.balance.close_step(lambda value: self.fabric.all_reduce(value, reduce_op="mean")):
                self.on_balanced(self.balance.factors or {})
            self._seconds = time.perf_counter() - began
            if self._told_to_stop(signals):
                self._check()
                self.save()
                raise Stopped(
                    signals.received or 15, f"epoch {self.epoch + 1}, batch {self.batch} of {self.sampler.batches}"
                )
            if time.perf_counter() - saved >= self.checkpoint_seconds and self.batch < self.sampler.batches:
                self._check()
                self.save()
                saved = time.perf_counter()
        self._close_epoch(first_rate)

    def _step(self, batches: Any) -> dict[str, Tensor]:
        """One optimiser step; the terms of its last part, detached."""
        rate = self.config.lr * self.rate_factor(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms: dict[str, Tensor] = {}
        for part in range(self.config.accumulate):
            images, labels, *rest = next(batches)
            torch.manual_seed(keyed_seed(self.seed, self.fabric.global_rank, self.step, part))
            device = self.fabric.device
            kept = Kept(rest[0], device) if rest else None
            waiting = part + 1 < self.config.accumulate
            # Gradients at several places of one forward: more than weights that come and go are made for.
            measured = whole_network(self.learner) if self.balance.measuring else contextlib.nullcontext()
            with measured, self.fabric.no_backward_sync(self.objective, enabled=waiting):
                terms = self.objective(images.to(device, non_blocking=True), labels.to(device, non_blocking=True), kept)
                loss = torch.stack(list(terms.values())).sum()
                self.fabric.backward(loss / self.config.accumulate)
            terms = {name: value.detach() for name, value in terms.items()}
            self._count(terms)
        if self.config.clip is not None:
            # A gradient that is not finite is the loss's doing, which `_check_finite` names.
            self.fabric.clip_gradients(
                self.objective, self._stepper, max_norm=self.config.clip, error_if_nonfinite=False
            )
        self._stepper.step()
        self._stepper.zero_grad()
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.learner.student, step=self.step)
        return terms

    def _count(self, terms: Mapping[str, Tensor]) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        # Which terms were bad in the first bad step; later ones are bad everywhere, the weights being NaN by then.
        bad = ~torch.isfinite(torch.stack(list(terms.values())))
        self._bad = bad if self._bad is None else torch.where(self._bad.any(), self._bad, bad)

    def _state(self, terms: Mapping[str, Tensor]) -> str:
        text = _losses({name: float(value) for name, value in terms.items()})
        return text if self.scores is None else f"{text}  val mIoU {self.scores.miou:.2f}"

    def _told_to_stop(self, signals: StopSignals) -> bool:
        if self.fabric.world_size == 1:
            return signals.received is not None
        if self.step % STEPS_BETWEEN_LOOKS:
            return False
        # All processes stop at the same step, whichever of them was told.
        told = torch.tensor(float(signals.received or 0), device=self.fabric.device)
        return bool(cast(Tensor, self.fabric.all_reduce(told, reduce_op="sum")) > 0)

    def _close_epoch(self, rate: float) -> None:
        self._check()
        sums = cast(dict[str, Tensor], self.fabric.all_reduce(self._sums, reduce_op="mean"))
        parts = self.sampler.batches * self.config.accumulate
        means = {name: float(total) / parts for name, total in sums.items()}
        number = self.epoch + 1
        row: dict[str, object] = {"epoch": number, "seconds": round(self._seconds, 2), "lr": rate}
        row |= {f"loss/{name}": mean for name, mean in means.items()}
        validated = number % self.config.validate_every == 0 or number == self.config.epochs
        better = False
        if validated:
            self.scores = self.validate()
            row |= {
                "val/miou": self.scores.miou,
                "val/pixel_accuracy": self.scores.pixel_accuracy,
                "val/mean_f1": self.scores.mean_f1,
            }
            better = not self.best or self.scores.miou > self.best["miou"]
            self._stale = 0 if better else self._stale + 1
            if better:
                self.best = {"miou": self.scores.miou, "epoch": number}
        network = self._network_to_save()
        if self.fabric.is_global_zero:
            rows = [old for old in self.folder.read_history() if int(old["epoch"]) < number]
            self.folder.write_history([*rows, row])
            self.folder.save_network(network)
            if better:
                self.folder.save_best(network)
        self._log({name: float(str(value)) for name, value in row.items() if name not in ("epoch", "seconds")})
        self.console.out(_line(row, self.config.epochs), highlight=False)
        if not self.balance.measures:  # gradients are balanced then, and the values may differ as they like
            self.watch.terms(means)
        if validated and self.scores is not None and self.teacher_miou is None:
            self.teacher_miou = self.score_teacher()
            if self.teacher_miou is not None:
                self.watch.teacher(self.teacher_miou, self.scores.miou)
        self.epoch, self.batch = number, 0
        self.save()
        if self.finished and self.epoch < self.config.epochs:
            self.console.out(
                f"no better mIoU in {self.config.patience} validations; stopping after epoch {self.epoch}",
                highlight=False,
            )

    def _check_finite(self) -> None:
        if self._bad is None or not bool(self._bad.any()):
            return
        broken = ", ".join(name for name, bad in zip(self._sums, self._bad.tolist(), strict=True) if bad)
        raise _not_finite("the loss", self.epoch, f"first in the term {broken}")

    def _check(self) -> None:
        """Before anything is kept: the loss of the last step is that of the weights before it."""
        self._check_finite()
        # A part of a shared-out tensor may be empty, which has a sum and no maximum.
        values = [value for value in self.learner.state_dict().values() if value.is_floating_point()]
        sums = [value.to(self.fabric.device) for value in gathered([value.abs().sum() for value in values])]
        if not bool(torch.isfinite(torch.stack(sums)).all()):
            done = self.batch == self.sampler.batches
            raise _not_finite("the weights", self.epoch, "at its end" if done else f"by batch {self.batch}")

    def _log(self, values: Mapping[str, float]) -> None:
        if self.fabric.is_global_zero:
            for logger in list(self.loggers):
                try:
                    logger.log_metrics(dict(values), self.step)
                except Exception as error:  # a full disk, a server that is gone: curves are not worth a run
                    self.loggers.remove(logger)
                    told = f"{type(logger).__name__} takes no more values ({short(error.__cause__ or error)})"
                    self.console.out(f"warning: {told}; the run goes on without it", highlight=False)

    def save(self) -> None:
        """Writes a checkpoint, from the first process; all must come here."""
        shared = gathered(
            {
                "learner": self.learner.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": None if self.ema is None else self.ema.module.state_dict(),
            }
        )
        if not self.fabric.is_global_zero:
            return
        save_checkpoint(
            {
                "recipe": dict(self.recipe),
                "epoch": self.epoch,
                "batch": self.batch,
                "step": self.step,
                **shared,
                "scaler": self.fabric.strategy.precision.state_dict(),
                "balance": self.balance.state(),
                "sums": self._sums,
                "bad": self._bad,
                "seconds": self._seconds,
                "best": self.best,
                "stale": self._stale,
                "teacher_miou": self.teacher_miou,
            },
            self.folder.checkpoint_file,
        )

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from a checkpoint.

        Raises:
            UserError: if it is another network's or method's.
        """
        device = self.fabric.device
        try:
            self.learner.load_state_dict(scattered(state["learner"], self.learner.state_dict()))
            self.optimizer.load_state_dict(scattered_optimizer(state["optimizer"], self.optimizer))
            if self.ema is not None:
                self.ema.module.load_state_dict(scattered(state["ema"], self.ema.module.state_dict()))
            self.fabric.strategy.precision.load_state_dict(state["scaler"])
        except (RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"checkpoint {self.folder.checkpoint_file} is of another network or method ({_first_line(error)}); "
                "start over with --overwrite"
            ) from error
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.balance.load(state["balance"], device)
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._bad = None if state["bad"] is None else state["bad"].to(device)
        self._seconds, self.best, self._stale = state["seconds"], state["best"], state["stale"]
        self.teacher_miou = state["teacher_miou"]


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _not_finite(what: str, epoch: int, where: str) -> UserError:
    return UserError(
        f"{what} became NaN or infinite in epoch {epoch + 1}, {where}; what earlier epochs saved is kept. Try a lower "
        "train.lr, a longer train.warmup, or precision fp32"
    )


def _losses(terms: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in terms.items())


def _line(row: Mapping[str, object], epochs: int) -> str:
    losses = {
        name.removeprefix("loss/"): value
        for name, value in row.items()
        if name.startswith("loss/") and isinstance(value, float)
    }
    text = f"epoch {row['epoch']}/{epochs}  {_losses(losses)}"
    if "val/miou" in row:
        text += f"  val mIoU {row['val/miou']:.2f}"
    return f"{text}  {row['seconds']} s"
