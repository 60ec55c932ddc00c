"""MGD: the teacher's features, generated from the student's with most positions blanked out."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from segdistill.losses import feature_mse
from segdistill.methods.alignment import Places, size_of
from segdistill.methods.balance import Balance, PixelWeights, check_balance
from segdistill.methods.draws import Draws
from segdistill.methods.method import (
    Method,
    TeacherOutputs,
    check_choice,
    check_not_negative,
    check_ratio,
    preset_values,
)
from segdistill.networks.features import Features, NetworkInfo

_PRESETS: dict[str, dict[str, Any]] = {
    "normalised": {"weight": 1.0, "distance": "normalised", "at": "embedding", "masked": 0.75},
    "paper": {"weight": 168.0, "distance": "mse", "at": "stage", "masked": 0.75},
}


class MGD(Method):
    """Yang et al., *Masked Generative Distillation*, ECCV 2022 (arXiv 2205.01529).

    The student's features, through a 1x1 convolution, are set to 0 at a share of the positions drawn at each step; two
    3x3 convolutions with a ReLU between them generate the teacher's features from the rest:
    ``mean over positions of d(G(M * A x), t)``. A and G are trained with the student and left out of it. Maps finer
    than stride 8 are average-pooled to it; the teacher's are resized bilinearly to the student's size.

    The authors sum the squares over channels and positions and divide by the batch, times 2e-5: their loss grows with
    the crop and with the teacher's width. Their weight is ``2e-5 * C * h * w`` here, C channels of the teacher on
    h x w positions. ``preset="paper"`` has it for 2048 channels on 64 x 64 (a ResNet of stride 8, crops of 512 x 512),
    at the last backbone stage; set ``weight`` for another. Two 3x3 convolutions at a backbone's width cost more than
    many a student, so the default is the embedding, and its features are standardised as in `Feature`, which makes the
    weight independent of the teacher's scale.

    Args:
        preset: ``"normalised"`` or ``"paper"``: what the next four are where they are not given.
        weight: weight of the term; 1, or 168 for ``"paper"``.
        distance: ``"mse"``: mean squared difference; ``"normalised"``: the same after each channel was brought to mean
            0 and variance 1 over the valid positions of its image.
        at: ``"embedding"``, or ``"stage"`` for the last backbone stage.
        masked: share of positions set to 0, at least 0 and below 1.
        balance: ``"labels"`` or ``"teacher"`` to weigh positions by their class; see `PixelWeights`.
    """

    family = "feature"
    paper = "Yang, ECCV, arXiv 2205.01529"
    year = 2022
    cost = 1.034
    presets = _PRESETS

    def __init__(
        self,
        *,
        preset: Literal["normalised", "paper"] = "normalised",
        weight: float | None = None,
        distance: Literal["mse", "normalised"] | None = None,
        at: Literal["embedding", "stage"] | None = None,
        masked: float | None = None,
        balance: Balance = None,
    ) -> None:
        super().__init__()
        given = {"weight": weight, "distance": distance, "at": at, "masked": masked}
        values = preset_values("mgd", preset, _PRESETS, given)
        check_not_negative("mgd", weight=values["weight"])
        check_choice("mgd", "distance", values["distance"], ("mse", "normalised"))
        check_choice("mgd", "at", values["at"], ("embedding", "stage"))
        check_ratio("mgd", masked=values["masked"])
        check_balance("mgd", balance)
        self.preset = preset
        self.weight: float = values["weight"]
        self.distance: str = values["distance"]
        self.at: str = values["at"]
        self.masked: float = values["masked"]
        self.balance = balance
        self.needs_stages = self.at == "stage"
        self.needs_embedding = not self.needs_stages
        self.needs_labels = balance == "labels"
        self.needs_teacher_logits = balance == "teacher"

    def build(self, student: NetworkInfo, teacher: NetworkInfo) -> None:
        super().build(student, teacher)
        stage = self.at == "stage"
        self._places = Places(student, teacher, embedding=not stage, stages="last" if stage else False)
        ((x, t),) = self._places.taps
        self.adapter = nn.Conv2d(x.channels, t.channels, 1)
        self.generator = generator(t.channels)
        self.draws = Draws()
        self.pixels = PixelWeights(self.balance, student, teacher)

    def teacher_outputs(self, teacher: Features) -> TeacherOutputs:
        outputs = self._places.teacher_outputs(teacher)
        return outputs | {"logits": teacher.logits} if self.balance == "teacher" else outputs

    def forward(
        self, *, student: Features, teacher: TeacherOutputs, labels: Tensor | None, valid: Tensor
    ) -> dict[str, Tensor]:
        ((x, t),) = self._places.pairs(student, teacher)
        self.draws.advance()
        made = self.generator(masked_positions(self.adapter(x), self.draws, self.masked))
        loss = feature_mse(
            student=made,
            teacher=t,
            standardise="channel" if self.distance == "normalised" else None,
            valid=self.pixels(valid=valid, labels=labels, teacher=teacher).at(size_of(x)),
        )
        return {"features": self.weight * loss}


def generator(channels: int) -> nn.Sequential:
    """3x3 convolution, ReLU, 3x3 convolution."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
    )


def masked_positions(maps: Tensor, draws: Draws, share: float) -> Tensor:
    """(B, C, H, W) maps with about a ``share`` of the positions set to 0, in all channels."""
    batch, _, height, width = maps.shape
    kept: Tensor = draws(batch, 1, height, width) >= share
    return maps * kept
