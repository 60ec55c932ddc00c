"""AT: where the features are strong."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from segdistill.losses import attention_mse, shrink_valid
from segdistill.methods.alignment import attention_outputs, match_stages, resize, size_of
from segdistill.methods.method import Method, TeacherOutputs, check_choice, check_not_negative, preset_values
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"weight": 10.0, "at": "stages"},
    "cirkd": {"weight": 1.2, "at": "embedding"},
}


class AT(Method):
    """Zagoruyko and Komodakis, *Paying More Attention to Attention*, ICLR 2017 (arXiv 1612.03928).

    ``q(F) = l2-normalise(sum_c F_c^2)`` over the valid positions of an image; ``||q(x) - q(t)||_2^2``, mean over images
    and places. Channels need no adapter. The teacher's map is resized bilinearly to the student's size.

    Reduction: the sum over positions of two maps of unit length, which does not depend on their number N. Paper and
    authors' code have ``beta / 2`` and ``beta`` times the *mean* over positions, and the sum over places: each place of
    N positions has ``beta / N`` of our weight, times the number of places, which we average over. ``"paper"``: all
    stages; its ``beta / 2 = 500`` on three maps of 32 x 32, 16 x 16 and 8 x 8 positions comes to 10. ``"cirkd"``: the
    port that segmentation papers compare with, on the embedding; its 10000 at 64 x 128 positions is 1.2.

    Args:
        preset: ``"paper"`` or ``"cirkd"``: what `weight` and `at` are where they are not given.
        weight: weight of the term.
        at: ``"stages"``, ``"embedding"`` or ``"both"``.
    """

    family = "feature"
    paper = "Zagoruyko, ICLR, arXiv 1612.03928"
    year = 2017
    cost = 1.017
    presets = _PRESETS

    def __init__(
        self,
        *,
        preset: Literal["paper", "cirkd"] = "paper",
        weight: float | None = None,
        at: Literal["stages", "embedding", "both"] | None = None,
    ) -> None:
        super().__init__()
        values = preset_values("at", preset, _PRESETS, {"weight": weight, "at": at})
        check_not_negative("at", weight=values["weight"])
        check_choice("at", "at", values["at"], ("stages", "embedding", "both"))
        self.preset = preset
        self.weight: float = values["weight"]
        self.at: str = values["at"]
        self.needs_stages = self.at != "embedding"
        self.needs_embedding = self.at != "stages"
        self._pairs: list[tuple[int, int]] = []

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        self._pairs = match_stages(student.stages, teacher.stages) if self.needs_stages else []

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        return attention_outputs(teacher, {stage for _, stage in self._pairs}, embedding=self.at != "stages")

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        places = [(student.stages[i], teacher[f"attention.stages.{j}"]) for i, j in self._pairs]
        if self.at != "stages":
            places.append((student.embedding, teacher["attention.embedding"]))
        distances = []
        for x, energy in places:
            size = size_of(x)
            # The loss squares its features.
            t = resize(energy, size).sqrt()
            distances.append(attention_mse(student=x, teacher=t, valid=shrink_valid(valid, size)))
        return {"attention": self.weight * torch.stack(distances).mean()}
