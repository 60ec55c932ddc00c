from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segdistill import UserError
from segdistill.comparison import statistics
from segdistill.comparison.statistics import Difference, Overlaps, Spread, compare_miou, gap_closure
from segdistill.metrics.boundary import BoundaryCounts, BoundaryTotals
from segdistill.metrics.scores import scores_from_confusion

NAMES = ["road", "roof", "tree", "car"]
Recipe = list[Overlaps]


def confusions(
    generator: np.random.Generator, labels: NDArray[np.int64], right: NDArray[np.float64]
) -> NDArray[np.int64]:
    """(N, K, K) of a network that gets the share `right` (N,) of the pixels of each image right, whatever the class."""
    images, classes = labels.shape
    counts = np.zeros((images, classes, classes), np.int64)
    for index in range(classes):
        hits = generator.binomial(labels[:, index], np.clip(right, 0, 1))
        others = generator.multinomial(labels[:, index] - hits, np.full(classes - 1, 1 / (classes - 1)))
        counts[:, index, np.arange(classes) != index] = others
        counts[:, index, index] = hits
    return counts


def experiment(generator: np.random.Generator, gains: tuple[float, ...], runs: int, images: int = 100) -> list[Recipe]:
    """Runs of one recipe for each gain in accuracy; images are of unequal difficulty and most have no car."""
    labels = generator.multinomial(1000, [0.6, 0.25, 0.1, 0.05], size=images)
    labels[:, 3] *= generator.random(images) < 0.3
    difficulty = generator.normal(0.7, 0.1, images)

    def network(gain: float) -> Overlaps:
        luck = generator.normal(0, 0.01) if runs > 1 else 0.0
        own = generator.normal(0, 0.03, images)  # what this network finds hard and others do not
        return Overlaps.from_confusion(confusions(generator, labels, difficulty + own + gain + luck))

    return [[network(gain) for _ in range(runs)] for gain in gains]


# Exactness.


def test_miou_is_that_of_scores() -> None:
    generator = np.random.default_rng(0)
    counts = confusions(generator, generator.integers(0, 50, (20, 4)), generator.random(20))
    counts[:, 3], counts[:, :, 3] = 0, 0  # a class that does not occur
    overlaps = Overlaps.from_confusion(torch.from_numpy(counts))
    assert overlaps.miou() == pytest.approx(scores_from_confusion(torch.from_numpy(counts.sum(0)), NAMES).miou)


@pytest.mark.parametrize("at_once", [100, 2_000_000])
def test_resamples_against_a_plain_loop(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """mIoU of the summed confusion counts of the drawn images, one resample at a time."""
    monkeypatch.setattr(statistics, "DRAWS_AT_ONCE", at_once)  # in blocks or all at once: the same
    generator = np.random.default_rng(1)
    labels = generator.multinomial(100, [0.6, 0.3, 0.08, 0.02], size=12)
    labels[2:, 3] = 0  # a class that many resamples lack
    first, second = (confusions(generator, labels, generator.random(12)) for _ in range(2))
    result = compare_miou(
        [Overlaps.from_confusion(first)], [Overlaps.from_confusion(second)], resamples=200, seed=5, level=0.9
    )
    drawing = np.random.default_rng(5)
    differences = []
    for _ in range(200):
        drawn = drawing.integers(12, size=12)
        one, other = (
            scores_from_confusion(torch.from_numpy(sum(counts[i] for i in drawn)), NAMES).miou
            for counts in (first, second)
        )
        differences.append(one - other)
    assert (result.low, result.high) == pytest.approx((np.quantile(differences, 0.05), np.quantile(differences, 0.95)))
    totals = [scores_from_confusion(torch.from_numpy(counts.sum(0)), NAMES).miou for counts in (first, second)]
    assert result.difference == pytest.approx(totals[0] - totals[1])
    assert result.candidate.runs == pytest.approx((totals[0],))
    assert (result.images, result.level) == (12, 0.9)


def test_width_with_several_runs_is_that_of_welch() -> None:
    """With all images alike, only seeds matter: mean difference +- t x standard error, t(0.975) at 2 degrees."""

    def run(hits: int) -> Overlaps:
        # One class of 100 pixels an image, all predicted as another if wrong: mIoU = hits / 2 of 100.
        return Overlaps.from_confusion(np.array([[[hits, 100 - hits], [0, 0]]] * 5))

    candidate, baseline = [run(hits) for hits in (60, 70, 80)], [run(50)] * 3
    result = compare_miou(candidate, baseline, resamples=200_000)
    assert result.difference == pytest.approx(10)
    assert result.candidate == Spread(pytest.approx((30, 35, 40)), pytest.approx(35), pytest.approx(5))
    assert result.baseline.deviation == pytest.approx(0)
    half = 4.3027 * 5 / np.sqrt(3)
    assert (result.low, result.high) == pytest.approx((10 - half, 10 + half), abs=0.4)  # 4 deviations


def test_seeded() -> None:
    candidate, baseline = experiment(np.random.default_rng(2), (0.02, 0.0), runs=3)
    first = compare_miou(candidate, baseline, resamples=300)
    assert first == compare_miou(candidate, baseline, resamples=300)
    assert first.low != compare_miou(candidate, baseline, resamples=300, seed=1).low


def test_pairing_shortens_the_interval() -> None:
    """Hard images are hard for both: against shuffled images of its own, the interval must be far longer."""
    [candidate], [baseline] = experiment(np.random.default_rng(3), (0.0, 0.0), runs=1, images=200)
    paired = compare_miou([candidate], [baseline], resamples=1000)
    drawing = np.random.default_rng(0)
    unpaired = []
    for _ in range(1000):
        one, other = (drawing.integers(200, size=200) for _ in range(2))
        a, b = (
            Overlaps(n.intersection[drawn], n.reference[drawn], n.predicted[drawn]).miou()
            for n, drawn in ((candidate, one), (baseline, other))
        )
        unpaired.append(a - b)
    assert paired.high - paired.low < 0.6 * (np.quantile(unpaired, 0.975) - np.quantile(unpaired, 0.025))


def test_images_without_a_valid_pixel_change_nothing() -> None:
    [candidate], [baseline] = experiment(np.random.default_rng(4), (0.02, 0.0), runs=1, images=20)

    def with_empty(network: Overlaps) -> Overlaps:
        return Overlaps(*(np.insert(counts, 7, 0, 0) for counts in vars(network).values()))

    expected = compare_miou([candidate], [baseline], resamples=200)
    assert compare_miou([with_empty(candidate)], [with_empty(baseline)], resamples=200) == expected


def test_an_image_counts_where_any_network_shows_something() -> None:
    """A boundary that only the second network invents, in an image without one."""
    reference, seen = np.array([[10, 10], [0, 0]]), np.array([[8, 8], [0, 0]])
    careful = Overlaps(seen, reference, np.array([[8, 8], [0, 0]]))
    inventive = Overlaps(seen, reference, np.array([[8, 8], [6, 6]]))
    for first, second, difference in ((careful, inventive, 80 - 50), (inventive, careful, 50 - 80)):
        result = compare_miou([first], [second], resamples=100)
        assert result.images == 2
        assert result.difference == pytest.approx(difference)


def test_images_and_seeds_are_drawn_from_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, baseline = experiment(np.random.default_rng(2), (0.02, 0.0), runs=2, images=10)
    generators: list[np.random.Generator] = []
    make = np.random.default_rng

    def noted(seed: object) -> np.random.Generator:
        generators.append(make(seed))  # type: ignore[arg-type]
        return make(seed)  # type: ignore[arg-type]

    monkeypatch.setattr(np.random, "default_rng", noted)
    compare_miou(candidate, baseline, resamples=100)
    first_numbers = [float(one.random()) for one in generators]
    assert len(set(first_numbers)) == len(generators) == 2


def test_boundary_iou_has_its_interval_too() -> None:
    generator = np.random.default_rng(12)
    counts = {"good": BoundaryCounts(2, 255), "bad": BoundaryCounts(2, 255)}
    images: dict[str, list[BoundaryTotals]] = {name: [] for name in counts}
    for size in generator.integers(5, 20, 30):
        labels = np.zeros((40, 40), np.int64)
        labels[10 : 10 + size, 8 : 8 + size] = 1
        for name, moved in (("good", 0), ("bad", 1)):
            images[name].append(counts[name].update(np.roll(labels, moved, 0), labels))
    good, bad = (
        Overlaps(
            *(np.stack([getattr(i, f"{f}_region") for i in images[name]]) for f in ("shared", "reference", "predicted"))
        )
        for name in counts
    )
    result = compare_miou([good], [bad], resamples=200)
    assert result.candidate.mean == counts["good"].result(["road", "car"]).mean_boundary_iou == 100
    assert result.baseline.mean == pytest.approx(counts["bad"].result(["road", "car"]).mean_boundary_iou)
    assert result.verdict == "better"


# Verdicts.


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.1, 2, "better"), (-3, -0.1, "worse"), (-1, 3, "no difference seen")]
)
def test_verdict_is_the_intervals(low: float, high: float, verdict: str) -> None:
    spread = Spread((50.0,), 50.0, None)
    for mean in (-5.0, 5.0):
        assert Difference(mean, low, high, 0.95, spread, spread, 10).verdict == verdict


@pytest.mark.parametrize(
    ("runs", "gain", "verdict"), [(1, 0.03, "better"), (1, -0.03, "worse"), (5, 0.05, "better"), (3, -0.08, "worse")]
)
def test_planted_difference_is_seen(runs: int, gain: float, verdict: str) -> None:
    generator = np.random.default_rng(5)
    results = [compare_miou(*experiment(generator, (gain, 0.0), runs), resamples=200) for _ in range(60)]
    assert np.mean([result.verdict == verdict for result in results]) >= 0.95


@pytest.mark.parametrize("runs", [1, 3])
def test_no_difference_is_planted(runs: int) -> None:
    """At 99 % a wrong verdict is due in 1 of 100 repeats, so that 95 of 100 right ones leave room for chance."""
    generator = np.random.default_rng(6)
    results = [compare_miou(*experiment(generator, (0.0, 0.0), runs), resamples=400, level=0.99) for _ in range(200)]
    assert np.mean([result.verdict == "no difference seen" for result in results]) >= 0.95


@pytest.mark.parametrize("runs", [1, 3])
def test_intervals_hold_the_truth_as_often_as_they_say(runs: int) -> None:
    """At 90 %, in 200 repeats: 180 due, 12 = 3 deviations less are allowed."""
    generator = np.random.default_rng(7)
    results = [compare_miou(*experiment(generator, (0.0, 0.0), runs), resamples=300, level=0.9) for _ in range(200)]
    assert sum(result.low <= 0 <= result.high for result in results) >= 180 - 12


# Gap closure.


def test_gap_closure() -> None:
    distilled, baseline, [teacher, *_] = experiment(np.random.default_rng(8), (0.05, 0.0, 0.1), runs=3, images=200)
    result = gap_closure(distilled, baseline, teacher, resamples=2000)
    means = [np.mean([network.miou() for network in recipe]) for recipe in (distilled, baseline, [teacher])]
    assert result.closed == pytest.approx(100 * (means[0] - means[1]) / (means[2] - means[1]))
    assert result.gap.verdict == "better"
    assert result.low is not None
    assert result.high is not None
    assert 0 < result.low < 50 < result.high < 100


def test_gap_closure_where_some_resamples_have_no_gap() -> None:
    """One image of four on which all networks are equal: a resample of it alone has no gap that could be closed."""

    def network(hits: int) -> Overlaps:
        counts = [[[9, 1], [1, 9]]] + 3 * [[[hits, 10 - hits], [10 - hits, hits]]]
        return Overlaps.from_confusion(np.array(counts))

    result = gap_closure([network(7)], [network(6)], network(8))
    assert result.closed is not None
    assert result.low is not None
    assert result.high is not None
    assert 0 < result.low <= result.closed <= result.high < 100


def test_gap_closure_against_a_plain_loop() -> None:
    [distilled], [baseline], [teacher] = experiment(np.random.default_rng(9), (0.05, 0.0, 0.1), runs=1, images=30)
    result = gap_closure([distilled], [baseline], teacher, resamples=200, seed=3)
    drawing = np.random.default_rng(3)
    shares = []
    for _ in range(200):
        drawn = drawing.integers(30, size=30)
        d, b, t = (
            Overlaps(n.intersection[drawn], n.reference[drawn], n.predicted[drawn]).miou()
            for n in (distilled, baseline, teacher)
        )
        shares.append(100 * (d - b) / (t - b))
    assert (result.low, result.high) == pytest.approx((np.quantile(shares, 0.025), np.quantile(shares, 0.975)))


def test_no_gap_to_close() -> None:
    distilled, baseline, [teacher] = experiment(np.random.default_rng(10), (0.05, 0.0, 0.0), runs=1)
    result = gap_closure(distilled, baseline, teacher, resamples=200)
    assert (result.closed, result.low, result.high) == (None, None, None)
    assert result.gap.verdict == "no difference seen"


# What does not fit.


def test_errors() -> None:
    candidate, baseline = experiment(np.random.default_rng(11), (0.0, 0.0), runs=2, images=5)
    with pytest.raises(UserError, match="1 and 2 runs cannot be compared"):
        compare_miou(candidate[:1], baseline)
    with pytest.raises(UserError, match="0 and 2 runs cannot be compared"):
        compare_miou([], baseline)
    with pytest.raises(UserError, match="level is 95, expected a number between 0 and 1"):
        compare_miou(candidate, baseline, level=95)
    with pytest.raises(UserError, match="resamples are 10, expected at least 100"):
        compare_miou(candidate, baseline, resamples=10)
    shuffled = [Overlaps(*(counts[::-1] for counts in vars(network).values())) for network in baseline]
    with pytest.raises(UserError, match="expected the same images in the same order"):
        compare_miou(candidate, shuffled)
    empty = [Overlaps.from_confusion(np.zeros((3, 2, 2), np.int64))]
    with pytest.raises(UserError, match="no image has a valid pixel"):
        compare_miou(empty, empty)


@pytest.mark.parametrize(
    ("confusion", "message"),
    [
        (np.zeros((2, 3, 4), np.int64), r"int64 of shape \(2, 3, 4\), expected integers \(N, K, K\)"),
        (np.zeros((3, 3), np.int64), r"int64 of shape \(3, 3\)"),
        (np.zeros((2, 3, 3)), r"float64 of shape \(2, 3, 3\)"),
        (np.full((1, 2, 2), -1), "count -1, expected none below 0"),
    ],
)
def test_confusions_that_do_not_fit(confusion: NDArray[np.int64], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Overlaps.from_confusion(confusion)
