"""`segdistill.train`: one network from labels alone."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from segdistill.distiller import AbsentTeacher, Supervised
from segdistill.networks.loading import load_network
from segdistill.recipe import build_data
from segdistill.run_folder import RunFolder
from segdistill.training.config import TrainConfig
from segdistill.training.loggers import Tracker
from segdistill.training.run import RunOptions, fit
from segdistill.training.strategies import Engine, Machines


def train(
    *,
    data: dict[str, Any],
    network: str,
    output: str | Path,
    train: TrainConfig = TrainConfig(),
    init_weights: str | None = None,
    seed: int = 0,
    overfit: int | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: Engine = "auto",
    compile: bool = False,
    checkpoint_minutes: float = 10.0,
    tracker: Tracker | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> RunFolder:
    """Trains a network from labels alone: a teacher, or the baseline of a student.

    Args:
        data: the data set and its augmentation, e.g. {dataset: camvid, root: data/camvid, crop: [352, 480]}.
        network: what to train, e.g. smp:Unet:resnet34, torchvision:fcn_resnet50, transformers:segformer, a run folder.
        output: folder of the run; it must not hold one yet.
        train: how to train.
        init_weights: none, "imagenet" (downloads the backbone's), or a .safetensors or .pth file to start from.
        seed: seed of everything random; the same seed gives the same run.
        overfit: train and validate on the first so many training images, unchanged, to see that a set-up can learn.
        device: auto, cpu, cuda, cuda:N or mps.
        devices: processes on each machine, one per device; batches are shared among them.
        nodes: machines; start the same command on each (docs/training.md).
        strategy: how processes share the work: ddp (each has all init_weights) or fsdp (each holds a part); auto is one
            process, or ddp where there are several.
        compile: compile the network with torch.compile; what cannot be compiled is trained as it is.
        checkpoint_minutes: minutes between checkpoints within an epoch; each epoch's end brings one anyway.
        tracker: also report to wandb or mlflow, where that is installed.
        resume: go on from the last checkpoint in the output folder; a finished run is left as it is.
        overwrite: replace the run in the output folder.
        dry_run: take a few steps, say what the run would be and how long it would take, and write nothing.
        quiet: print nothing.

    Returns:
        The finished run's folder; of a dry run, the folder that was not made.

    Raises:
        UserError: for a recipe or data that cannot work, before anything is written.
    """
    sets = build_data(data, overfit, converting=not dry_run)
    machines = Machines(device, devices, nodes, strategy)
    options = RunOptions(output, machines, resume, overwrite, quiet, compile, checkpoint_minutes, tracker, dry_run)
    config = {
        "data": sets.values,
        "network": network,
        "init_weights": init_weights,
        "train": asdict(train),
        "overfit": overfit,
        "seed": seed,
    }

    def make(_: AbsentTeacher | None) -> Supervised:
        student = load_network(network, len(sets.train.classes), sets.train.in_channels, init_weights)
        return Supervised(student, ignore_index=sets.train.ignore_index)

    return fit(make, kind="train", config=config, data=sets, train=train, seed=seed, options=options)
