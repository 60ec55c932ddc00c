"""Is one network better than another: bootstrap intervals of mIoU differences, and how much of the gap was closed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from segdistill.errors import UserError

#: Random image numbers drawn at once; bounds memory (about 100 MB), not the result.
DRAWS_AT_ONCE = 2_000_000


@dataclass(frozen=True, eq=False)
class Overlaps:
    """How the prediction of one network overlaps the labels, for each image and class.

    IoU is intersection / (reference + predicted - intersection), be it of all pixels or of boundary regions: the
    ``shared_region``, ``reference_region`` and ``predicted_region`` of `BoundaryTotals`, stacked over images, make
    everything here say "Boundary IoU" for "IoU".

    Attributes:
        intersection: int64 (N, K), pixels of a class in both.
        reference: int64 (N, K), pixels of a class in the labels.
        predicted: int64 (N, K), pixels of a class in the prediction.
    """

    intersection: NDArray[np.int64]
    reference: NDArray[np.int64]
    predicted: NDArray[np.int64]

    @classmethod
    def from_confusion(cls, confusion: Tensor | NDArray[np.integer[Any]]) -> Overlaps:
        """Overlaps from one confusion matrix for each image.

        Args:
            confusion: integer (N, K, K); row = true class, column = predicted class, in pixels.

        Raises:
            UserError: if the shape or dtype does not fit, or a count is negative.
        """
        counts = confusion.cpu().numpy() if isinstance(confusion, Tensor) else confusion
        if counts.ndim != 3 or counts.shape[1] != counts.shape[2] or counts.dtype.kind not in "iu":
            raise UserError(f"confusion is {counts.dtype} of shape {counts.shape}, expected integers (N, K, K)")
        if counts.size and counts.min() < 0:
            raise UserError(f"confusion holds the count {counts.min()}, expected none below 0")
        counts = counts.astype(np.int64)
        return cls(np.diagonal(counts, axis1=1, axis2=2).copy(), counts.sum(2), counts.sum(1))

    def miou(self) -> float:
        """mIoU in percent of all images together, over the classes that occur in labels or prediction.

        Raises:
            UserError: if no pixel was counted.
        """
        union = (self.reference + self.predicted - self.intersection).sum(0)
        if not union.any():
            raise UserError("no image has a valid pixel: every label is the ignore label")
        return float(_miou(self.intersection.sum(0), union))


@dataclass(frozen=True)
class Spread:
    """mIoU of the runs of one recipe, in percent.

    Attributes:
        runs: the mIoU of each run, on all images.
        mean: their mean.
        deviation: their sample standard deviation; None for one run.
    """

    runs: tuple[float, ...]
    mean: float
    deviation: float | None


@dataclass(frozen=True)
class Difference:
    """mIoU of a candidate minus mIoU of a baseline, in points of percent.

    Attributes:
        difference: of the means over runs, on all images.
        low: lower end of its confidence interval.
        high: upper end.
        level: the share of repetitions of the experiment whose interval would hold the true difference.
        candidate: mIoU of the candidate's runs.
        baseline: mIoU of the baseline's runs.
        images: number of images with a pixel that counts.
    """

    difference: float
    low: float
    high: float
    level: float
    candidate: Spread
    baseline: Spread
    images: int

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"`` or ``"no difference seen"``: where the interval lies, whatever the mean is."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no difference seen"


@dataclass(frozen=True)
class GapClosure:
    """How much of the way from the baseline to the teacher distillation went, in percent.

    All three are None where the teacher is not seen to be better than the baseline: then there is no gap to close.

    Attributes:
        closed: 100 (distilled - baseline) / (teacher - baseline), of the means over runs, on all images.
        low: lower end of its confidence interval.
        high: upper end.
        level: as in `Difference`.
        gap: teacher - baseline.
    """

    closed: float | None
    low: float | None
    high: float | None
    level: float
    gap: Difference


def compare_miou(
    candidate: Sequence[Overlaps],
    baseline: Sequence[Overlaps],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The difference in mIoU of two recipes on the same images, with a confidence interval.

    **Images**: paired bootstrap (Efron and Tibshirani 1993, percentile interval). N images are drawn with
    replacement, the same for all networks, and mIoU is taken anew from the summed counts of the drawn images.

    **Seeds**: with several runs of each recipe, the mean over runs is compared, and on top of each resample comes
    what other seeds would have changed. Redrawing three or five runs with replacement would make intervals that are
    too short (at three runs, intervals at 95 % that hold the truth in about 80 to 90 %), so this part is drawn from
    Student's t distribution: standard error of the mean over runs of each recipe, degrees of freedom after Welch and
    Satterthwaite. Runs of equal seed are not treated as pairs. With one run each, the interval is about these two
    networks on other images, and says nothing about other seeds.

    Args:
        candidate: one `Overlaps` for each run, of equal images in equal order everywhere.
        baseline: the same; one run each, or at least two each.
        level: of the confidence interval, in (0, 1).
        resamples: number of resamples, at least 100.
        seed: of the random numbers; equal seeds give equal intervals.

    Raises:
        UserError: if images, classes or numbers of runs do not fit, or a value is out of its range.

    Example:
        >>> good = Overlaps.from_confusion(np.array([[[8, 1], [1, 8]]] * 20))
        >>> bad = Overlaps.from_confusion(np.array([[[7, 2], [2, 7]]] * 20))
        >>> result = compare_miou([good], [bad])
        >>> round(result.difference, 1), result.verdict
        (16.4, 'better')
    """
    draws, spreads, images = _drawn_means([candidate, baseline], level, resamples, seed)
    return _difference(draws[:, 0], draws[:, 1], spreads[0], spreads[1], level, images)


def gap_closure(
    distilled: Sequence[Overlaps],
    baseline: Sequence[Overlaps],
    teacher: Overlaps,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> GapClosure:
    """The share of the gap between baseline and teacher that distillation closed, with a confidence interval.

    Resamples are drawn as in `compare_miou`; the teacher is one given network, so that only images vary for it.

    Args:
        distilled: one `Overlaps` for each run, of equal images in equal order everywhere.
        baseline: the same; one run each, or at least two each.
        teacher: the teacher's.
        level: of the confidence interval, in (0, 1).
        resamples: number of resamples, at least 100.
        seed: of the random numbers; equal seeds give equal intervals.

    Raises:
        UserError: as `compare_miou`.
    """
    draws, spreads, images = _drawn_means([distilled, baseline, [teacher]], level, resamples, seed)
    gap = _difference(draws[:, 2], draws[:, 1], spreads[2], spreads[1], level, images)
    if gap.verdict != "better":
        return GapClosure(None, None, None, level, gap)
    draws = draws[draws[:, 2] != draws[:, 1]]  # a resample without any gap, a rare one here, has no share
    shares = 100 * (draws[:, 0] - draws[:, 1]) / (draws[:, 2] - draws[:, 1])
    low, high = _interval(shares, level)
    return GapClosure(100 * (spreads[0].mean - spreads[1].mean) / gap.difference, low, high, level, gap)


def _difference(
    candidate: NDArray[np.float64],
    baseline: NDArray[np.float64],
    candidate_spread: Spread,
    baseline_spread: Spread,
    level: float,
    images: int,
) -> Difference:
    low, high = _interval(candidate - baseline, level)
    difference = candidate_spread.mean - baseline_spread.mean
    return Difference(difference, low, high, level, candidate_spread, baseline_spread, images)


def _interval(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _drawn_means(
    recipes: Sequence[Sequence[Overlaps]], level: float, resamples: int, seed: int
) -> tuple[NDArray[np.float64], list[Spread], int]:
    """For each resample and recipe the mean mIoU (resamples, recipes), how runs spread, and the number of images.

    The first two recipes vary with the seed if they have several runs, the others only with the images.
    """
    if not 0 < level < 1:
        raise UserError(f"level is {level}, expected a number between 0 and 1")
    if resamples < 100:
        raise UserError(f"resamples are {resamples}, expected at least 100")
    runs = [len(recipe) for recipe in recipes]
    if min(runs) == 0 or (min(runs[:2]) == 1 and max(runs[:2]) > 1):
        raise UserError(f"{runs[0]} and {runs[1]} runs cannot be compared, expected one each, or two or more each")
    networks = _same_images([network for recipe in recipes for network in recipe])

    slices = [slice(start, stop) for start, stop in itertools.pairwise([0, *itertools.accumulate(runs)])]
    scores = np.array([network.miou() for network in networks])
    spreads = [_spread(scores[part]) for part in slices]
    resampled = _resampled_miou(networks, resamples, seed)
    draws = np.stack([resampled[:, part].mean(1) for part in slices], axis=1)
    draws[:, :2] += _seed_noise(spreads[0], spreads[1], resamples, seed)
    return draws, spreads, len(networks[0].reference)


def _same_images(networks: Sequence[Overlaps]) -> list[Overlaps]:
    """The networks' overlaps on the images where anything was counted."""
    labels = networks[0].reference
    for network in networks:
        if not np.array_equal(network.reference, labels):
            raise UserError(
                f"networks were scored on different labels (images and classes {network.reference.shape} and "
                f"{labels.shape}), expected the same images in the same order"
            )
    valid = np.any([(network.reference + network.predicted).any(1) for network in networks], axis=0)
    return [Overlaps(n.intersection[valid], n.reference[valid], n.predicted[valid]) for n in networks]


def _spread(runs: NDArray[np.float64]) -> Spread:
    deviation = float(runs.std(ddof=1)) if len(runs) > 1 else None
    return Spread(tuple(runs.tolist()), float(runs.mean()), deviation)


def _resampled_miou(networks: Sequence[Overlaps], resamples: int, seed: int) -> NDArray[np.float64]:
    """mIoU of each network on each resample of the images, (resamples, networks), in percent."""
    images, classes = networks[0].reference.shape
    # How often each image was drawn, times its counts: one matrix product for all sums. Sums stay below 2^53.
    parts = [(n.intersection, n.reference + n.predicted - n.intersection) for n in networks]
    table = np.array(parts, np.float64).transpose(2, 0, 1, 3).reshape(images, -1)
    generator = np.random.default_rng(seed)
    scores = np.empty((resamples, len(networks)))
    block = max(1, DRAWS_AT_ONCE // images)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        drawn = generator.integers(images, size=(rows, images))
        drawn += images * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * images).reshape(rows, images)
        sums = (times.astype(np.float64) @ table).reshape(rows, len(networks), 2, classes)
        scores[start : start + rows] = _miou(sums[:, :, 0], sums[:, :, 1])
    return scores


def _miou(intersection: NDArray[Any], union: NDArray[Any]) -> NDArray[np.float64]:
    """mIoU in percent from (..., K) pixels, over the classes that occur."""
    iou: NDArray[np.float64] = intersection / np.maximum(union, 1)  # 0 where a class does not occur
    mean: NDArray[np.float64] = 100 * iou.sum(-1) / np.maximum((union > 0).sum(-1), 1)
    return mean


def _seed_noise(candidate: Spread, baseline: Spread, resamples: int, seed: int) -> NDArray[np.float64]:
    """What other seeds would add to the two means over runs, (resamples, 2); their difference is Student's t."""
    if candidate.deviation is None or baseline.deviation is None:
        return np.zeros((resamples, 2))
    runs = np.array([len(candidate.runs), len(baseline.runs)])
    variance = np.array([candidate.deviation, baseline.deviation]) ** 2 / runs  # of each mean
    if not variance.any():
        return np.zeros((resamples, 2))
    freedom = variance.sum() ** 2 / (variance**2 / (runs - 1)).sum()
    generator = np.random.default_rng([seed, 1])  # apart from the images' draws
    noise: NDArray[np.float64] = generator.standard_normal((resamples, 2)) * np.sqrt(variance)
    # One factor for both, so that their difference is a normal over the root of a chi-square: t.
    noise *= np.sqrt(freedom / generator.chisquare(freedom, (resamples, 1)))
    return noise
