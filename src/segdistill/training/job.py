"""What a run trains: `Job`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segdistill.distiller import Distiller, Supervised
from segdistill.networks.network import Network
from segdistill.recipe.data import Data
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.training.loading import teacher_hash
from segdistill.training.teacher_source import TeacherSource


@dataclass(frozen=True)
class Job:
    """What a run trains.

    Attributes:
        recipe: complete, as it is written to config.yaml.
        data: splits and augmentation.
        make_learner: builds the learner, given the teacher where there is one; its task loss is set later.
        load_teacher: loads the teacher; None where there is none.
        hint: a line to print once the networks are made, or nothing.
    """

    recipe: TrainRecipe | DistillRecipe
    data: Data
    make_learner: Callable[[TeacherSource | None], Distiller | Supervised]
    load_teacher: Callable[[], Network] | None = None
    hint: str = ""

    def inputs(self) -> dict[str, str | None]:
        """Hashes of what a run reads besides its recipe: its images and masks, and its teacher's weights."""
        teacher = teacher_hash(self.recipe) if isinstance(self.recipe, DistillRecipe) else None
        return {"content": self.data.fingerprint(), "teacher": teacher}
