"""CutMix, ClassMix and mixup against plain formulas, and as a function of (seed, view, index)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill.data import Augmentation, TrainingSamples, training_loader
from segdistill.data.mixing import KINDS, Mixing, Pair, checked_mix, classmix, cutmix, mixup
from segdistill.datasets import SyntheticAerial
from segdistill.datasets.base import UNLABELLED, SegmentationDataset
from segdistill.errors import UserError

IGNORE = 255


def pair(seed: int, dtype: torch.dtype = torch.uint8, size: tuple[int, int] = (13, 17)) -> Pair:
    """Five bands, four classes, a corner that is ignored and a row without labels."""
    chance = torch.Generator().manual_seed(seed)
    image = torch.randint(256, (5, *size), generator=chance).to(dtype)
    labels = torch.randint(4, size, generator=chance)
    labels[:3, :4] = IGNORE
    labels[seed % size[0]] = UNLABELLED
    return (image if dtype == torch.uint8 else image / 7 - 10), labels


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize(("share", "center"), [(0.5, (0.5, 0.5)), (0.1, (0.0, 0.9)), (0.99, (0.3, 0.2)), (0, (0, 0))])
def test_cutmix_pastes_a_box(dtype: torch.dtype, share: float, center: tuple[float, float]) -> None:
    (image, labels), (other, theirs) = first, second = pair(1, dtype), pair(2, dtype)
    kept = [value.clone() for value in (*first, *second)]
    mixed, said = cutmix(first, second, share, center)
    height, width = labels.shape
    size = math.sqrt(1 - share)
    for row in range(height):
        for column in range(width):
            inside = (
                round(center[0] * height - height * size / 2) <= row < round(center[0] * height + height * size / 2)
            ) and round(center[1] * width - width * size / 2) <= column < round(center[1] * width + width * size / 2)
            assert mixed[:, row, column].equal((other if inside else image)[:, row, column])
            assert said[row, column] == (theirs if inside else labels)[row, column]
    assert all(value.equal(before) for value, before in zip((*first, *second), kept, strict=True))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_classmix_pastes_the_pixels_of_classes(dtype: torch.dtype) -> None:
    (image, labels), (other, theirs) = first, second = pair(1, dtype), pair(2, dtype)
    mixed, said = classmix(first, second, torch.tensor([0, 3]))
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            pasted = int(theirs[row, column]) in (0, 3)
            assert mixed[:, row, column].equal((other if pasted else image)[:, row, column])
            assert said[row, column] == (theirs if pasted else labels)[row, column]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_mixup_blends_and_keeps_the_labels_on_which_both_agree(dtype: torch.dtype, share: float) -> None:
    (image, labels), (other, theirs) = first, second = pair(1, dtype), pair(2, dtype)
    mixed, said = mixup(first, second, share, IGNORE)
    expected = share * image.double() + (1 - share) * other.double()
    assert mixed.dtype == dtype
    assert (mixed.double() - expected).abs().max() <= (0.5 + 1e-4 if dtype == torch.uint8 else 1e-5)
    for row in range(labels.shape[0]):
        for column in range(labels.shape[1]):
            both = {int(labels[row, column]), int(theirs[row, column])}
            right = IGNORE if IGNORE in both else both.pop() if len(both) == 1 else UNLABELLED
            assert said[row, column] == right
    assert len(labels.unique()) > len(set(said.unique().tolist()) & {IGNORE, UNLABELLED}) > 1


def drawn(kind: str, index: int = 0) -> Mixing:
    mixing = Mixing.draw({kind: 1.0}, (0, 0, index), IGNORE)
    assert mixing is not None
    return mixing


def test_classmix_takes_half_of_the_partners_classes_each_equally_often() -> None:
    first, second = pair(1), pair(2)
    first[1].fill_(9)
    taken: Counter[int] = Counter()
    for index in range(300):
        _, said = drawn("classmix", index)(first, second)
        classes = set(said.unique().tolist()) - {9}
        assert len(classes) == 2  # of four
        taken.update(classes)
    assert set(taken) == {0, 1, 2, 3}
    assert all(110 < count < 190 for count in taken.values())


@pytest.mark.parametrize("labels", [(UNLABELLED,), (IGNORE,), (2,), (2, IGNORE)])
def test_classmix_is_cutmix_where_the_partner_has_no_two_classes(labels: tuple[int, ...]) -> None:
    first, (other, theirs) = pair(1), pair(2)
    theirs.fill_(labels[0])
    theirs[5:] = labels[-1]
    mixing = drawn("classmix", 3)
    mixed, said = mixing(first, (other, theirs))
    expected = cutmix(first, (other, theirs), mixing.share, mixing.center)
    assert mixed.equal(expected[0])
    assert said.equal(expected[1])
    assert not mixed.equal(first[0])


def test_each_kind_comes_as_often_as_asked() -> None:
    mix = checked_mix({"mixup": 0.2, "cutmix": 0.5, "classmix": 0.1})
    assert list(mix) == list(KINDS)
    found = Counter(
        "none" if mixing is None else mixing.kind
        for mixing in (Mixing.draw(mix, (3, 1, index), IGNORE) for index in range(4000))
    )
    for kind, share in (("cutmix", 0.5), ("classmix", 0.1), ("mixup", 0.2), ("none", 0.2)):
        assert found[kind] / 4000 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("samples", [2, 5])
def test_the_partner_is_any_other_sample(samples: int) -> None:
    for index in (0, samples - 1, samples + 1):  # beyond the end too: a further view
        partners = Counter(drawn("mixup", number).partner_of(index, samples) for number in range(500))
        assert set(partners) == set(range(samples)) - {index % samples}
        assert max(partners.values()) < 1.5 * min(partners.values())


# As a part of loading.

MIX = {"cutmix": 0.4, "classmix": 0.3, "mixup": 0.2}
CHANGES: dict[str, Any] = {"scale": (0.5, 2.0), "quarter_turns": True, "jitter": 0.3}
MIXED = Augmentation((23, 32), mix=MIX, **CHANGES)
PLAIN = Augmentation((23, 32), **CHANGES)


class FloatBands(SegmentationDataset):
    """Scenes of five float32 bands."""

    def __init__(self) -> None:
        super().__init__(classes=("a", "b", "c", "d"), ids=[str(number) for number in range(6)], in_channels=5)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = pair(index, torch.float32, (40, 44))
        labels[labels == UNLABELLED] = 0
        return image, labels


@pytest.mark.parametrize("dataset", [SyntheticAerial(count=7, size=(40, 40)), FloatBands()])
def test_a_mixed_view_is_a_mix_of_two_plain_views(dataset: SegmentationDataset) -> None:
    """Mixing moves no crop: the views that are mixed are those of a run without."""
    mixed, plain = (TrainingSamples(dataset, augmentation, seed=5) for augmentation in (MIXED, PLAIN))
    changed = 0
    for view in range(3):
        for index in range(len(dataset)):
            image, labels = mixed[view, index]
            mixing = MIXED.mixing((5, view, index))
            expected = plain[view, index]
            if mixing is not None:
                changed += 1
                partner = plain[view, mixing.partner_of(index, len(dataset))]
                expected = mixing(expected, partner)
            assert image.equal(expected[0])
            assert labels.equal(expected[1])
            assert image.shape == (dataset.in_channels, 23, 32)
            assert image.dtype == expected[0].dtype
            assert labels.dtype == torch.int64
    assert changed > len(dataset)


def test_mixed_views_are_equal_for_every_order_worker_and_batch_size() -> None:
    dataset = SyntheticAerial(count=7, size=(40, 40))
    samples = TrainingSamples(dataset, MIXED, seed=4, views=2)
    by_key = {(view, index): samples[view, index] for view in (1, 0) for index in reversed(range(7))}
    assert samples[3, 5][0].equal(by_key[1, 5][0])
    for batch_size, parts, workers in ((7, 1, 0), (6, 2, 2)):
        for rank in range(parts):
            options: dict[str, Any] = {"views": 2, "parts": parts, "rank": rank, "world": parts}
            loader = training_loader(dataset, MIXED, batch_size, seed=4, workers=workers, **options)
            order = list(loader.sampler)
            shown = [one for images, labels in loader for one in zip(images, labels, strict=True)]
            assert len(order) == len(shown) == len(loader.sampler)  # type: ignore[arg-type]
            for key, (image, labels) in zip(order, shown, strict=True):
                assert image.equal(by_key[key][0])
                assert labels.long().equal(by_key[key][1])


def test_the_number_of_threads_changes_no_blend() -> None:
    (image, labels), (other, theirs) = (pair(seed, torch.float32, (301, 407)) for seed in (1, 2))
    threads, blends = torch.get_num_threads(), []
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            blends.append(mixup((image, labels), (other, theirs), 0.371, IGNORE)[0])
    finally:
        torch.set_num_threads(threads)
    assert blends[0].equal(blends[1])


def test_a_single_image_is_mixed_with_another_view_of_itself() -> None:
    dataset = SyntheticAerial(count=1, size=(40, 40))
    always, plain = (
        TrainingSamples(dataset, Augmentation((24, 24), mix=mix), seed=0) for mix in ({"mixup": 1.0}, None)
    )
    assert not always[0, 0][0].equal(plain[0, 0][0])


@pytest.mark.parametrize(
    ("mix", "sentence"),
    [
        ({"cutmixx": 0.5}, "unknown key in mix: 'cutmixx'.*cutmix"),
        ({"cutmix": -0.1}, r"mix.cutmix is -0.1, expected a probability from 0 to 1"),
        ({"cutmix": math.nan}, "mix.cutmix is nan"),
        ({"cutmix": 0.6, "mixup": 0.5}, r"the probabilities in mix add up to 1.1, expected at most 1"),
    ],
)
def test_what_cannot_be_mixed_is_refused(mix: dict[str, float], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Augmentation((8, 8), mix=mix)


def test_mixing_needs_images_of_one_size() -> None:
    with pytest.raises(UserError, match="mix needs crop"):
        Augmentation(None, mix={"mixup": 0.5})
    assert Augmentation(None, mix={"mixup": 0.0}).mix == {}
