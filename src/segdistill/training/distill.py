"""`segdistill.distill`: a student from labels and a teacher."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from segdistill.distiller import Distiller
from segdistill.errors import UserError
from segdistill.networks.loading import load_network
from segdistill.recipe import MethodSpec, build_data, build_methods
from segdistill.training.config import TrainConfig
from segdistill.training.fit import RunOptions, fit
from segdistill.training.run_folder import RunFolder


def distill(
    *,
    data: dict[str, Any],
    teacher: str | Path,
    student: str,
    output: str | Path,
    method: MethodSpec = "kd",
    train: TrainConfig = TrainConfig(),
    teacher_weights: str | None = None,
    student_weights: str | None = None,
    ignored: Literal["skip", "distil"] = "skip",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
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
        student_weights: none, "imagenet" (downloads the backbone's), or a .safetensors or .pth file to start from.
        ignored: whether pixels with the ignore label are left out of distillation ("skip") or not ("distil").
        seed: seed of everything random; the same seed gives the same run.
        device: auto, cpu, cuda, cuda:N or mps.
        resume: go on from the last checkpoint in the output folder; a finished run is left as it is.
        overwrite: replace the run in the output folder.
        quiet: print nothing.

    Returns:
        The finished run's folder.

    Raises:
        UserError: for a recipe or data that cannot work, before anything is written.
    """
    methods = build_methods(method)
    sets = build_data(data)
    options = RunOptions(output, device, resume, overwrite, quiet)
    config = {
        "data": sets.values,
        "teacher": teacher,
        "teacher_weights": teacher_weights,
        "student": student,
        "student_weights": student_weights,
        "method": methods,
        "ignored": ignored,
        "train": asdict(train),
        "seed": seed,
    }
    classes = len(sets.train.classes)

    def make() -> Distiller:
        if not Path(teacher).is_dir() and ":" not in str(teacher):
            raise UserError(f"teacher folder '{teacher}' does not exist; expected a run folder or a network spec")
        if not Path(teacher).is_dir() and teacher_weights is None:
            raise UserError(
                f"teacher '{teacher}' is no run folder, and a network spec alone has no trained weights; "
                "give a run folder, or a file as teacher_weights"
            )
        big = load_network(
            teacher, None if Path(teacher).is_dir() else classes, sets.train.in_channels, teacher_weights
        )
        if big.num_classes != classes:
            raise UserError(f"teacher {teacher} has {big.num_classes} classes, but the data has {classes}")
        return Distiller(
            big,
            load_network(student, classes, sets.train.in_channels, student_weights),
            methods,
            ignore_index=sets.train.ignore_index,
            ignored=ignored,
        )

    return fit(make, kind="distill", config=config, data=sets, train=train, seed=seed, options=options)
