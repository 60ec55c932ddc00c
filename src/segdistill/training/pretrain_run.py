"""A pre-training on its way: a `Run` that is judged by its distillation loss on held-out images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

from segdistill.datasets.base import SegmentationDataset, Window
from segdistill.datasets.reading.checking import in_threads
from segdistill.files import write_text
from segdistill.inspection.leakage import check_leaks
from segdistill.networks.pretrained import write_pretrained
from segdistill.networks.size import count_parameters
from segdistill.recipe.recipes import PretrainRecipe
from segdistill.run_folder import BEST
from segdistill.training.callbacks.callback import Callback
from segdistill.training.callbacks.curves import Curves
from segdistill.training.callbacks.early_stopping import EarlyStopping
from segdistill.training.callbacks.held_out import HeldOutValidation
from segdistill.training.callbacks.history import History
from segdistill.training.callbacks.networks import SaveNetworks
from segdistill.training.callbacks.progress_bar import ProgressBar
from segdistill.training.held_out import HeldOut, held_out_loader
from segdistill.training.job import Job
from segdistill.training.loop import STEPS_BETWEEN_LOOKS
from segdistill.training.options import RunOptions
from segdistill.training.pretrain_report import pretrain_report
from segdistill.training.pretrainer import Pretrainer
from segdistill.training.run import Run

if TYPE_CHECKING:
    from segdistill.training.loop import Loop


class PretrainRun(Run):
    """See `Run`.

    Args:
        job: the run as a distillation.
        options: where and how.
        recipe: complete, as it is written to config.yaml.
    """

    def __init__(self, job: Job, options: RunOptions, recipe: PretrainRecipe) -> None:
        super().__init__(job, options)
        self.config = recipe.as_dict()

    def build(self) -> None:
        """See `Run.build`."""
        super().build()
        if self.data.train.classes:
            text = "pretrain uses no labels; those of the data only say which pixels are ignored"
            self.console.out(text, highlight=False)

    def check_data(self) -> None:
        """Reads every image once, so that a broken one stops the run now and not after an hour, and refuses leaks."""
        for dataset in (self.data.train,) if self.data.val is self.data.train else (self.data.train, self.data.val):
            for _ in in_threads(_reader(dataset), len(dataset), "reading images", self.shown):
                pass
        if self.data.unlabelled is not None:
            check_leaks(self.data, self.console, self.shown)

    def validation_loaders(self) -> tuple[DataLoader[Any], ...]:
        """See `Run.validation_loaders`."""
        train, seed = self.train_config, self.job.recipe.seed
        return (held_out_loader(self.data, train.batch_size, train.workers, seed=seed, **self.share),)

    def callbacks(self) -> list[Callback]:
        """See `Run.callbacks`."""
        train, console, folder = self.train_config, self.console, self.folder
        assert isinstance(self.learner, Pretrainer)
        assert self.source is not None
        batches = -(-len(self.data.val) * self.data.val.crops_per_image // train.batch_size)
        self.validator = validator = HeldOut(
            self.learner,
            self.source,
            self.loaders[1],
            counts=self.fabric.global_rank < batches,
            fabric=self.fabric,
            console=console,
            bar=self.shown,
            seed=self.job.recipe.seed,
        )
        self.held_out = HeldOutValidation(validator, train.validate_every)
        return [
            self.held_out,
            Curves(self.loggers(), console, STEPS_BETWEEN_LOOKS),
            ProgressBar(console, self.shown, train.batch_size, self.held_out),
            SavePretrained(folder, self.held_out),
            History(folder, console),
            EarlyStopping(train.patience, self.held_out, console, "val loss"),
        ]

    def finish(self) -> None:
        """See `Run.finish`."""
        found, learner = self.held_out.found, self.learner
        assert found is not None
        assert isinstance(learner, Pretrainer)
        parts = sorted({name.partition(".")[0] for name in learner.trained})
        if self.fabric.is_global_zero:
            write_text(self.folder.report_file, pretrain_report(self.folder, found, len(self.data.val), parts))
            self.folder.write_metrics(
                {
                    "kind": "pretrain",
                    "split": "val",
                    "loss": found.loss,
                    "terms": found.terms,
                    "best": self.held_out.best,
                    "trained": parts,
                    "epochs": self.loop.epoch,
                    "steps": self.loop.step.number,
                    "parameters": count_parameters(learner.student),
                    "training_seconds": round(sum(float(row["seconds"]) for row in self.folder.read_history()), 1),
                    "device": str(self.fabric.device),
                    "processes": self.fabric.world_size,
                    "precision": self.precision,
                    "torch": torch.__version__,
                }
            )
        self.fabric.barrier()
        text = f"{self.folder.path}  val loss {found.loss:.4f}; start from it with init_weights: {self.folder.path}"
        self.console.out(text, highlight=False)


class SavePretrained(SaveNetworks):
    """`SaveNetworks`, and beside each network its trained part in a file of its own."""

    def after_epoch(self, loop: Loop, row: dict[str, Any]) -> None:
        """See `SaveNetworks`."""
        super().after_epoch(loop, row)
        network, learner = loop.step.network_to_save(), loop.step.learner
        assert isinstance(learner, Pretrainer)
        if loop.step.fabric.is_global_zero:
            write_pretrained(network.model, learner.trained, self.folder.path)
            if self.validation.better:
                write_pretrained(network.model, learner.trained, self.folder.path / BEST)


def _reader(dataset: SegmentationDataset) -> Any:
    def read(index: int) -> None:
        dataset.open(index).window(Window(0, 0, 1, 1))

    return read
