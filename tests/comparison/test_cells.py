from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import DistillRecipe
from segdistill.comparison import cost
from segdistill.distiller import LearnerOutput, Supervised
from segdistill.training.loading import teacher_hash
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, train_tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("cells")
    first, second = (train_tiny(folder / str(seed), TEACHER, seed=seed, epochs=1).path for seed in (0, 1))
    return first, second


def test_the_teacher_is_known_by_the_weights_that_it_takes(runs: tuple[Path, Path]) -> None:
    """A folder's own, or a file or folder that is named beside it."""
    own, other = runs
    recipe = DistillRecipe(data=SCENES, teacher=str(own), student=STUDENT)
    plain = teacher_hash(recipe)
    assert plain is not None
    as_file = teacher_hash(replace(recipe, teacher_weights=str(other / "model.safetensors")))
    assert as_file not in (plain, None)
    as_folder = teacher_hash(replace(recipe, teacher_weights=str(other)))  # with the description beside the weights
    assert as_folder not in (plain, as_file, None)
    assert as_folder == teacher_hash(replace(recipe, teacher=TEACHER, teacher_weights=str(other)))
    assert as_folder == teacher_hash(replace(recipe, teacher=str(other)))
    assert teacher_hash(replace(recipe, teacher=TEACHER, teacher_weights="nowhere.pth")) is None


def test_cost_is_of_batches_as_they_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    forward = Supervised.forward

    def watched(self: Supervised, images: torch.Tensor, labels: torch.Tensor) -> LearnerOutput:
        seen.append(len(images))
        return forward(self, images, labels)

    monkeypatch.setattr(Supervised, "forward", watched)
    # A clock that counts passes: each step of two is two.
    monkeypatch.setattr(cost, "time", type("Clock", (), {"perf_counter": staticmethod(lambda: float(len(seen)))}))
    data: dict[str, Any] = SCENES | {"count": 8}
    recipe = DistillRecipe(data=data, teacher="", student=STUDENT, train=replace(FAST, batch_size=4, accumulate=2))
    found = cost.cell_cost(recipe, "none", device="cpu")
    assert set(seen) == {2}
    assert found == cost.CellCost(pre_stage=0.0, step=2.0, batches=2)
