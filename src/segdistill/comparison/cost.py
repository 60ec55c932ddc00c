"""What a cell of a comparison will cost, from a few measured steps."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from segdistill.comparison.methods import cell_recipe
from segdistill.data.loading import training_loader
from segdistill.datasets.base import UNLABELLED
from segdistill.device import choose_device, choose_precision, wait_for
from segdistill.distiller import Distiller, Supervised
from segdistill.methods.building import build_methods
from segdistill.recipe.data import build_data
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.recipe.train_config import TrainConfig
from segdistill.training.loading import load_student, load_teacher
from segdistill.training.step import Step
from segdistill.training.strategies import launch

#: Steps that are timed, after one that is not: the first is slower than all others.
TIMED_STEPS = 3


@dataclass(frozen=True)
class CellCost:
    """About how many seconds a cell trains.

    Attributes:
        pre_stage: seconds before the first epoch; 0 for most methods.
        step: seconds of each step.
        batches: steps of each epoch.
    """

    pre_stage: float
    step: float
    batches: int

    def seconds(self, train: TrainConfig) -> float:
        """Of a run as long as this.

        Example:
            >>> CellCost(pre_stage=5.0, step=0.5, batches=4).seconds(TrainConfig(epochs=10))
            25.0
        """
        return self.pre_stage + train.total_steps(self.batches) * self.step


def cell_cost(recipe: DistillRecipe, method: str, *, device: str) -> CellCost:
    """What a cell will cost: a few steps and, where there is one, a bit of the pre-stage, timed.

    The teacher is run live, so that with a teacher cache it will be less.

    Args:
        recipe: shared by all cells.
        method: of the cell.
        device: see `distill`.

    Raises:
        UserError: where the two networks cannot be paired by the method.
    """
    own = cell_recipe(recipe, method, recipe.seed)
    sets, where = build_data(own.data, own.overfit, converting=False), choose_device(device)
    fabric = launch(where, choose_precision(recipe.train.precision, where))
    options: dict[str, Any] = {
        "ignore_index": sets.train.ignore_index,
        "unlabelled_index": UNLABELLED,
        "auxiliary": recipe.train.aux,
    }
    student = load_student(replace(own, init_weights=None), sets)
    learner: Supervised | Distiller
    if isinstance(own, TrainRecipe):
        learner = Supervised(student, **options)
    else:
        methods = build_methods(own.method)
        sets = sets.looked_closer_at(own.teacher_scale)
        teacher = load_teacher(recipe, sets)
        learner = Distiller(teacher, student, methods, teacher_scale=own.teacher_scale, **options)
    # Without processes that read ahead: what they have read before the clock starts would not be counted.
    batch_size, parts = own.train.batch_size, own.train.accumulate
    loader = training_loader(
        sets.training_set(batch_size),
        sets.augmentation,
        batch_size,
        seed=0,
        workers=0,
        teacher_scale=sets.teacher_scale,
        parts=parts,
        unlabelled_in_batch=sets.unlabelled_in_batch(batch_size),
    )
    sampler: Any = loader.sampler

    def now() -> float:
        wait_for(where)
        return time.perf_counter()

    def endless() -> Iterator[Any]:
        return itertools.chain.from_iterable(itertools.repeat(loader))

    step = Step(learner, own.train, sampler.batches, fabric=fabric)
    pre_stage = 0.0
    if isinstance(learner, Distiller) and learner.has_pre_stage:
        with fabric.autocast():
            began = now()
            learner.prepare(list(itertools.islice(endless(), 2)))
            pre_stage = (now() - began) / 2
    learner.train()
    batches = endless()
    step(batches)
    began = now()
    for _ in range(TIMED_STEPS):
        step(batches)
    seconds = (now() - began) / TIMED_STEPS
    return CellCost(sampler.batches * parts * pre_stage, seconds, sampler.batches)
