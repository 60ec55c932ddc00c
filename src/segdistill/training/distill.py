"""`segdistill.distill`: a student from labels and a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from segdistill.distiller import AbsentTeacher, Distiller
from segdistill.errors import UserError
from segdistill.networks.loading import load_network
from segdistill.networks.network import Network
from segdistill.recipe import MethodSpec, build_data, build_methods
from segdistill.run_folder import RunFolder
from segdistill.training.config import TrainConfig
from segdistill.training.loggers import Tracker
from segdistill.training.run import RunOptions, fit
from segdistill.training.strategies import Engine, Machines


def distill(
    *,
    data: dict[str, Any],
    teacher: str | Path,
    student: str,
    output: str | Path,
    method: MethodSpec = "kd",
    train: TrainConfig = TrainConfig(),
    teacher_weights: str | None = None,
    init_weights: str | None = None,
    loss_weights: dict[str, float] | Literal["fixed", "auto"] = "fixed",
    views: int | None = None,
    ignored: Literal["skip", "distil"] = "skip",
    seed: int = 0,
    overfit: int | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    strategy: Engine = "auto",
    compile: bool = False,
    checkpoint_minutes: float = 10.0,
    tracker: Tracker | None = None,
    teacher_cache: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> RunFolder:
    """Distils a trained teacher into a small student.

    Args:
        data: the data set and its augmentation, e.g. {dataset: camvid, root: data/camvid, crop: [352, 480]}.
        teacher: a run folder, or a network spec with --teacher_weights.
        student: the network to train, e.g. smp:FPN:tu-mobilenetv3_small_050.
        output: folder of the run; it must not hold one yet.
        method: a method's name, a list of names, or {name: {hyper-parameter: value}}, see `segdistill methods`; in
            Python also a list of methods such as [BRD(boundary=2.0)].
        train: how to train.
        teacher_weights: a .safetensors or .pth file with the weights of a teacher that is given as a spec.
        init_weights: none, "imagenet" (downloads the backbone's), or a .safetensors or .pth file to start from.
        loss_weights: factors of the loss terms by name, on top of the method's own: {brd.relation: 2.0}; auto measures
            over the first steps what gives each distillation term a set share of the task loss's gradient, and fixes
            it.
        views: how many views of each image the augmentation gives, shown in turn; null for a new one every epoch.
        ignored: whether pixels with the ignore label are left out of distillation ("skip") or not ("distil").
        seed: seed of everything random; the same seed gives the same run.
        overfit: train and validate on the first so many training images, unchanged, to see that a set-up can learn.
        device: auto, cpu, cuda, cuda:N or mps.
        devices: processes on each machine, one per device; batches are shared among them.
        nodes: machines; start the same command on each (docs/training.md).
        strategy: how processes share the work: ddp (each has all weights) or fsdp (each holds a part); auto is one
            process, or ddp where there are several.
        compile: compile the student with torch.compile; what cannot be compiled is trained as it is.
        checkpoint_minutes: minutes between checkpoints within an epoch; each epoch's end brings one anyway.
        tracker: also report to wandb or mlflow, where that is installed.
        teacher_cache: folder for what the teacher says of every view; filled once, for this teacher, data, augmentation
            and seed, and from then on the teacher is not run, nor even loaded. Needs views.
        resume: go on from the last checkpoint in the output folder; a finished run is left as it is.
        overwrite: replace the run in the output folder.
        dry_run: take a few steps, say what the run would be and how long it would take, and write nothing.
        quiet: print nothing.

    Returns:
        The finished run's folder; of a dry run, the folder that was not made.

    Raises:
        UserError: for a recipe or data that cannot work, before anything is written.
    """
    if teacher_cache is not None and views is None:
        raise UserError(
            "teacher_cache needs views: how many views of each image to keep and show in turn, e.g. --views 4"
        )
    if isinstance(loss_weights, str) and loss_weights not in ("fixed", "auto"):
        raise UserError(
            f"loss_weights is '{loss_weights}', expected fixed, auto, or a factor for each loss term: "
            "{brd.relation: 2.0}"
        )
    if views is not None and views < 1:
        raise UserError(f"views is {views}, expected at least 1")
    methods = build_methods(method)
    sets = build_data(data, overfit, converting=not dry_run)
    machines = Machines(device, devices, nodes, strategy)
    options = RunOptions(output, machines, resume, overwrite, quiet, compile, checkpoint_minutes, tracker, dry_run)
    config = {
        "data": sets.values,
        "teacher": teacher,
        "teacher_weights": teacher_weights,
        "student": student,
        "init_weights": init_weights,
        "method": methods,
        "loss_weights": loss_weights,
        "views": views,
        "ignored": ignored,
        "train": asdict(train),
        "overfit": overfit,
        "seed": seed,
    }
    classes = len(sets.train.classes)

    def make(absent: AbsentTeacher | None) -> Distiller:
        return Distiller(
            load_teacher() if absent is None else absent,
            load_network(student, classes, sets.train.in_channels, init_weights),
            methods,
            ignore_index=sets.train.ignore_index,
            ignored=ignored,
        )

    def load_teacher() -> Network:
        if not Path(teacher).is_dir() and ":" not in str(teacher):
            raise UserError(f"teacher folder '{teacher}' does not exist; expected a run folder or a network spec")
        if not Path(teacher).is_dir() and teacher_weights is None:
            raise UserError(
                f"teacher '{teacher}' is no run folder, and a network spec alone has no trained weights; "
                "give a run folder, or a file as teacher_weights"
            )
        # Making the teacher must not change the chance that the student begins with.
        with torch.random.fork_rng():
            big = load_network(
                teacher, None if Path(teacher).is_dir() else classes, sets.train.in_channels, teacher_weights
            )
        if big.num_classes != classes:
            raise UserError(f"teacher {teacher} has {big.num_classes} classes, but the data has {classes}")
        if Path(teacher).is_dir():
            RunFolder(teacher).check_class_order(sets.train.classes)
        return big

    return fit(
        make,
        kind="distill",
        config=config,
        data=sets,
        train=train,
        seed=seed,
        options=options,
        views=views,
        loss_weights=loss_weights,
        teacher_cache=teacher_cache,
    )
