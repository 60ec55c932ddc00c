"""Two views mixed into one: CutMix, ClassMix and mixup, as a pure function of (seed, view, index).

Written here and not taken from torchvision's v2 or from kornia. Theirs mix the images of a batch with each other, so
that a picture depends on its neighbours in the batch: on the order of the epoch, the batch size and the number of
processes. A teacher cache could not keep what a teacher says of it. They also want one label per image, not a map.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from segdistill.data.seeding import keyed_generator
from segdistill.datasets.base import UNLABELLED
from segdistill.errors import UserError, unknown_name

#: Image (C, k x H, k x W) and labels, int64 (H, W); k is 1, or more for a teacher that looks closer.
Pair = tuple[Tensor, Tensor]

KINDS = ("cutmix", "classmix", "mixup")

#: Sets the numbers of mixing apart from those of the view with the same (seed, view, index).
_OF_MIXING = 1


def checked_mix(mix: Mapping[str, float] | None) -> dict[str, float]:
    """The probability of each kind of mixing that is not 0, by name, in the order of `KINDS`.

    Raises:
        UserError: an unknown kind, a probability below 0, or a sum above 1.
    """
    given = dict(mix or {})
    for kind, probability in given.items():
        if kind not in KINDS:
            raise unknown_name("key in mix:", kind, KINDS)
        if not 0 <= probability <= 1:
            raise UserError(f"mix.{kind} is {probability}, expected a probability from 0 to 1")
    total = sum(given.values())
    if total > 1 + 1e-9:
        raise UserError(f"the probabilities in mix add up to {total:g}, expected at most 1")
    return {kind: float(given[kind]) for kind in KINDS if given.get(kind)}


@dataclass(frozen=True)
class Mixing:
    """How one sample is mixed with another one.

    Attributes:
        kind: one of `KINDS`.
        partner: chooses the other sample, 0 to less than 1.
        share: of the sample in the result, 0 to 1; the other one has the rest. ClassMix does not use it.
        center: of CutMix's box, (row, column), each 0 to less than 1 of the side.
        ranks: a number for each label, (254,); ClassMix pastes the classes with the smallest.
        ignore_index: label of pixels that do not count.
    """

    kind: str
    partner: float
    share: float
    center: tuple[float, float]
    ranks: Tensor
    ignore_index: int

    @staticmethod
    def draw(mix: Mapping[str, float], key: tuple[int, int, int], ignore_index: int) -> Mixing | None:
        """How a sample is mixed; None where it stays as it is.

        Args:
            mix: what `checked_mix` gave.
            key: (seed, view, index) of the sample.
            ignore_index: label of pixels that do not count.
        """
        if not mix:
            return None
        numbers = torch.rand(5 + UNLABELLED, generator=keyed_generator(*key, _OF_MIXING), dtype=torch.float64)
        which, partner, share, row, column = numbers[:5].tolist()
        for kind, probability in mix.items():
            if which < probability:
                return Mixing(kind, partner, share, (row, column), numbers[5:], ignore_index)
            which -= probability
        return None

    def partner_of(self, index: int, samples: int) -> int:
        """Number of the other one among so many samples, all equally likely but ``index`` itself.

        Of a single sample it is a further view of the same image.
        """
        return index + 1 if samples == 1 else (index + 1 + int(self.partner * (samples - 1))) % samples

    def __call__(self, sample: Pair, other: Pair) -> Pair:
        """The mixed sample.

        Args:
            sample: image, uint8 or float32, and labels.
            other: the same of the partner, of equal sizes.
        """
        if self.kind == "mixup":
            return mixup(sample, other, self.share, self.ignore_index)
        if self.kind == "classmix":
            classes = self._classes_in(other[1])
            if len(classes) > 1:
                order = classes[self.ranks[classes].argsort()]
                return classmix(sample, other, order[: len(classes) // 2])
        return cutmix(sample, other, self.share, self.center)

    def _classes_in(self, labels: Tensor) -> Tensor:
        counts = (labels >= 0) & (labels < UNLABELLED) & (labels != self.ignore_index)
        return torch.bincount(labels[counts]).nonzero().flatten()


def cutmix(sample: Pair, other: Pair, share: float, center: tuple[float, float]) -> Pair:
    """Paste a box of the other image, with its labels.

    The box has the image's proportions and 1 - ``share`` of its area; what would lie outside is cut off. Yun et al.,
    "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", ICCV 2019.

    Args:
        sample: image and labels.
        other: the same of the partner, of equal sizes.
        share: of the sample, 0 to 1.
        center: of the box, (row, column), each 0 to less than 1 of the side.
    """
    half = 0.5 * math.sqrt(1 - share)
    sides = sample[1].shape
    rows, columns = (
        slice(max(0, round((place - half) * side)), min(side, round((place + half) * side)))
        for place, side in zip(center, sides, strict=True)
    )
    image, labels = sample[0].clone(), sample[1].clone()
    labels[rows, columns] = other[1][rows, columns]
    factor = image.shape[-1] // labels.shape[-1]
    rows, columns = (slice(factor * one.start, factor * one.stop) for one in (rows, columns))
    image[..., rows, columns] = other[0][..., rows, columns]
    return image, labels


def classmix(sample: Pair, other: Pair, classes: Tensor) -> Pair:
    """Paste the pixels of some classes of the other image, with their labels.

    Olsson et al., "ClassMix: Segmentation-Based Data Augmentation for Semi-Supervised Learning", WACV 2021, which takes
    half of the classes that the other image shows.

    Args:
        sample: image and labels.
        other: the same of the partner, of equal sizes.
        classes: labels of the classes that are pasted, int64 (N,).
    """
    pasted = torch.isin(other[1], classes)
    factor = sample[0].shape[-1] // pasted.shape[-1]
    pixels = pasted.repeat_interleave(factor, 0).repeat_interleave(factor, 1) if factor > 1 else pasted
    return torch.where(pixels, other[0], sample[0]), torch.where(pasted, other[1], sample[1])


def mixup(sample: Pair, other: Pair, share: float, ignore_index: int) -> Pair:
    """Blend both images.

    A label map cannot say "60 % road, 40 % tree", but a teacher can: labels stay where both images have the same, and
    all others become `UNLABELLED`. A pixel that either of the two leaves out (``ignore_index``) stays left out. Zhang
    et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018, with a share drawn evenly from 0 to 1.

    Args:
        sample: image and labels.
        other: the same of the partner, of equal sizes.
        share: of the sample, 0 to 1.
        ignore_index: label of pixels that do not count.
    """
    # Products and sum one by one: fused, they would be rounded otherwise in some pixels than in others, depending on
    # how many threads share the work.
    blend = (sample[0].float() * share).add_(other[0].float() * (1 - share))
    image = blend.round_().to(torch.uint8) if sample[0].dtype == torch.uint8 else blend
    labels = torch.where(sample[1] == other[1], sample[1], UNLABELLED)
    labels[(sample[1] == ignore_index) | (other[1] == ignore_index)] = ignore_index
    return image, labels
