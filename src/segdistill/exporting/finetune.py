"""Quantisation-aware distillation: a student learns, from labels and its teacher, to live with 8 bits."""

from __future__ import annotations

import contextlib
import copy
import importlib
import io
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch.utils.data import DataLoader

from segdistill.arguments import construct
from segdistill.data.loading import EpochSampler, reading, training_loader
from segdistill.data.statistics import BandStatistics
from segdistill.datasets.base import UNLABELLED
from segdistill.datasets.reading.checking import check_dataset
from segdistill.distiller import Distiller
from segdistill.errors import UserError, reason
from segdistill.exporting.int8 import quiet_nncf
from segdistill.methods import KD
from segdistill.networks.closer import reduced
from segdistill.networks.identity import network_label
from segdistill.networks.network import Network
from segdistill.progress import during, tracked
from segdistill.recipe.data import build_data
from segdistill.recipe.teachers import given_teachers
from segdistill.recipe.train_config import TrainConfig
from segdistill.run_folder import RunFolder
from segdistill.training.loading import Images, teacher_for
from segdistill.training.step import Step
from segdistill.training.strategies import launch

RATE = 0.1
"""Learning rate as a part of the run's own."""

CALIBRATION_BATCHES = 8
"""Training batches from which the ranges of the activations are taken."""


class Guide(NamedTuple):
    """The teacher of a fine-tuning.

    Attributes:
        folder: where it lies, for the report.
        teacher: it, on the CPU.
        scale: it sees pictures of so many times the run's height and width, as it did in the run.
    """

    folder: str
    teacher: Network
    scale: int = 1


def find_teacher(run: Path, named: str | Path | None, network: Network) -> Guide:
    """The teacher that a user names, or else the run's.

    Raises:
        UserError: none named, not there, or of other classes or channels.
    """
    config = RunFolder.of(run).read_config()
    keys = ("teacher_classes", "teacher_bands")
    found = config.get("teacher") if named is None else named
    given = [] if found is None else given_teachers(found, None, *(config.get(key) for key in keys if named is None))
    no_folder = [one.source for one in given if not isinstance(one.source, str | Path) or not Path(one.source).is_dir()]
    if not given or no_folder:
        lacking = f"'{network_label(no_folder[0])}' is no folder" if no_folder else "names none"
        raise UserError(f"finetune needs the folder of a teacher, but {run} {lacking}; give one as --teacher")
    folder, described = network_label(found), network.description
    teacher = teacher_for(given, Images(described.classes, described.in_channels, described.pixels, described.bands))
    teacher.description.check_classes(network.description.classes, f"teacher {folder}", str(run))
    return Guide(folder, teacher, int(config.get("teacher_scale", 1)) if named is None else 1)


def finetune(run: Path, network: Network, guide: Guide, epochs: int, console: Console) -> Network:
    """A copy of a network, trained for a few epochs while its weights and activations are rounded to 8 bits.

    It sees the run's own data, augmentation and loss on labels, and the teacher's class probabilities (`KD`); the run's
    own method may have adapters, which would begin untrained. The ranges of all roundings stay as they were measured
    at the beginning, and so do batch statistics: what is trained is what is deployed.

    Args:
        run: its folder, with the recipe.
        network: of the run, on the CPU; it is left as it is.
        guide: the teacher.
        epochs: passes over the training images.
        console: for a line per epoch.

    Returns:
        A network of float32 weights, without roundings, ready to be quantised; in eval mode.

    Raises:
        UserError: the recipe or its data cannot be read, or NNCF cannot follow the network.
    """
    config = RunFolder.of(run).read_config()
    train = construct(TrainConfig, config.get("train") or {}, "train")
    train = replace(train, epochs=epochs, steps=None, lr=RATE * train.lr)
    data = build_data(config["data"]).looked_closer_at(guide.scale)
    if (bands := RunFolder.of(run).path / "bands.json").exists():
        data.train.fill = BandStatistics.load(bands).padding(data.train[0][0].dtype)
    counts = check_dataset(data.train, progress=not console.quiet)
    seed = int(config.get("seed", 0))
    loader = training_loader(
        data.train, data.augmentation, train.batch_size, seed, train.workers, teacher_scale=guide.scale
    )
    sampler = loader.sampler
    assert isinstance(sampler, EpochSampler)
    with reading(loader):
        with during("preparing to round to 8 bits; the first time, NNCF compiles a part of itself", console):
            first = [reduced(batch[0], guide.scale) for batch in islice(loader, CALIBRATION_BATCHES)]
            student = rounding(network, first, run)
        learner = Distiller(
            guide.teacher,
            student,
            KD(),
            ignore_index=data.train.ignore_index,
            unlabelled_index=UNLABELLED,
            teacher_scale=guide.scale,
        )
        learner.task_loss = train.build_task_loss(counts.pixels)
        own = dict(network.named_parameters())
        for name, value in student.named_parameters():
            value.requires_grad_(name in own)  # not the ranges of the roundings
        fabric = launch("cpu", "fp32")
        step = Step(learner, replace(train, ema=0, accumulate=1), epochs * sampler.batches, fabric=fabric)
        _train(step, loader, sampler, epochs, run, console)
    tuned = copy.deepcopy(network)
    tuned.load_state_dict({name: value for name, value in student.state_dict().items() if name in tuned.state_dict()})
    return tuned.eval()


def _train(
    step: Step, loader: DataLoader[Any], sampler: EpochSampler, epochs: int, run: Path, console: Console
) -> None:
    """Makes the steps, with a line for each epoch."""
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        total = 0.0
        text = f"fine-tuning in 8 bits, epoch {epoch + 1}/{epochs}"
        for batch in tracked(loader, text, sampler.batches, console):
            [terms] = step(iter([batch]))
            total += sum(float(value) for value in terms.values())
        if not torch.isfinite(torch.tensor(total)):
            raise UserError(f"the loss became NaN or infinite while {run} was fine-tuned in 8 bits")
        console.out(f"{text}: loss {total / sampler.batches:.3f}", highlight=False)


def rounding(network: Network, batches: list[torch.Tensor], run: Path) -> Network:
    """A copy of a network in eval mode whose weights and activations are rounded to 8 bits, with gradients through it.

    Args:
        network: the network.
        batches: images (B, C, H, W), from which the ranges are taken.
        run: its name, for messages.

    Raises:
        UserError: NNCF cannot follow the network.
    """
    try:
        with quiet_nncf() as nncf, contextlib.redirect_stdout(io.StringIO()):
            # It compiles a few lines of C++ the first time: here, where a missing compiler gives one sentence, and
            # without the limit of a minute that it sets itself later.
            importlib.import_module("nncf.torch").force_build_cpu_extensions()
            found = nncf.quantize(
                copy.deepcopy(network).eval(),
                nncf.Dataset(batches),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(batches),
                advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
            )
    except UserError:  # it is not installed
        raise
    except Exception as error:  # it fails in many ways
        raise UserError(
            f"the network of {run} cannot be fine-tuned in 8 bits: {reason(error)}; leave finetune out"
        ) from error
    assert isinstance(found, Network)
    return found.eval()
