"""The Lightning module: one learner, its optimiser, its validation."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from segdistill.distiller import Distiller, Supervised
from segdistill.errors import UserError
from segdistill.metrics.scores import ConfusionCounts, Scores, scores_from_confusion
from segdistill.training.config import TrainConfig

#: Steps between looks at whether a loss has become NaN; each look makes a GPU wait for its queue.
STEPS_BETWEEN_CHECKS = 20


class SegmentationTask(L.LightningModule):
    """Trains a learner's student and validates it.

    Args:
        learner: what gives the loss of a batch.
        config: hyper-parameters.
        classes: names of the classes.
        ignore_index: label of pixels that do not count.
        seed: seed of everything random in training.
    """

    def __init__(
        self,
        learner: Distiller | Supervised,
        config: TrainConfig,
        classes: tuple[str, ...],
        ignore_index: int,
        seed: int,
    ) -> None:
        super().__init__()
        # Convolutions are fastest with channels last: a fifth off the step on a CPU, more on tensor cores.
        self.learner = learner.to(memory_format=torch.channels_last)
        self.config = config
        self.classes = classes
        self.seed = seed
        self.counts = ConfusionCounts(len(classes), ignore_index)
        self.scores: Scores | None = None
        self._sums: dict[str, Tensor] = {}
        self._steps = 0
        self._bad: Tensor | None = None

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = self.config.build_optimizer(self.learner.named_parameters())
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self.config.rate_factor(steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        # Dropout and the like depend on seed and epoch alone, so that a resumed run goes the way of an unbroken one.
        torch.manual_seed(self.seed * 1_000_003 + self.current_epoch + 1)
        self._sums, self._steps, self._bad = {}, 0, None

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        out = self.learner(images.contiguous(memory_format=torch.channels_last), labels)
        terms = {name: value.detach() for name, value in out.terms.items()}
        for name, value in terms.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1
        # Which terms were bad in the first bad step; later ones are bad everywhere, the weights being NaN by then.
        bad = ~torch.isfinite(torch.stack(list(terms.values())))
        self._bad = bad if self._bad is None else torch.where(self._bad.any(), self._bad, bad)
        if self._steps % STEPS_BETWEEN_CHECKS == 0:
            self._check_finite(list(terms))
        self.log_dict({f"loss/{name}": value for name, value in terms.items()}, prog_bar=True, on_step=True)
        loss: Tensor = out.loss
        return loss

    def close_epoch(self) -> dict[str, float]:
        """Mean of every loss term over the epoch just run.

        Raises:
            UserError: if a term, or the weights in the epoch's last steps, became NaN or infinite.
        """
        self._check_finite(list(self._sums))
        extremes = [value.abs().amax() for value in self.learner.state_dict().values() if value.is_floating_point()]
        if not bool(torch.isfinite(torch.stack(extremes)).all()):
            raise _not_finite("the weights", self.current_epoch, "at its end")
        return {name: float(total) / self._steps for name, total in self._sums.items()}

    def _check_finite(self, names: list[str]) -> None:
        if self._bad is None or not bool(self._bad.any()):
            return
        broken = ", ".join(name for name, bad in zip(names, self._bad.tolist(), strict=True) if bad)
        raise _not_finite("the loss", self.current_epoch, f"first in the term {broken}")

    def on_validation_epoch_start(self) -> None:
        self.counts.reset()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        self.counts.update(self.learner.student(images), labels)

    def on_validation_epoch_end(self) -> None:
        self.scores = scores_from_confusion(self.counts.confusion(), self.classes)
        self.log("val/miou", self.scores.miou, prog_bar=True)
        self.log("val/pixel_accuracy", self.scores.pixel_accuracy)
        self.log("val/mean_f1", self.scores.mean_f1)


def _not_finite(what: str, epoch: int, where: str) -> UserError:
    return UserError(
        f"{what} became NaN or infinite in epoch {epoch + 1}, {where}; what earlier epochs saved is kept. Try a lower "
        "train.lr, a longer train.warmup, or precision fp32"
    )
