from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from segdistill.data import Augmentation
from segdistill.errors import UserError


def sample(height: int = 40, width: int = 60) -> tuple[Tensor, Tensor]:
    """Blocks of labels 0..4, and an image whose grey level tells the label: 50 * label."""
    labels = torch.randint(5, (height // 5, width // 5), generator=torch.Generator().manual_seed(0))
    labels = labels.repeat_interleave(5, 0).repeat_interleave(5, 1)
    return (labels * 50).to(torch.uint8).expand(3, -1, -1).contiguous(), labels


EVERYTHING = Augmentation((32, 48), scale=(0.4, 2.5), flip=True, vertical_flip=True, quarter_turns=True, jitter=0.4)


def test_a_view_is_a_function_of_its_key_whatever_came_before() -> None:
    image, mask = sample()
    first = [EVERYTHING(image, mask, key=(7, 2, index)) for index in range(6)]
    torch.manual_seed(123)
    again = [EVERYTHING(image, mask, key=(7, 2, index)) for index in reversed(range(6))][::-1]
    for (image_a, mask_a), (image_b, mask_b) in zip(first, again, strict=True):
        assert image_a.equal(image_b)
        assert mask_a.equal(mask_b)


def test_every_part_of_the_key_counts() -> None:
    image, mask = sample()
    keys = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (-1, 0, 0))
    views = [EVERYTHING(image, mask, key=key)[0] for key in keys]
    for number, view in enumerate(views):
        assert not any(view.equal(other) for other in views[:number])


def test_the_global_generator_and_the_input_are_left_alone() -> None:
    image, mask = sample()
    kept, state = (image.clone(), mask.clone()), torch.random.get_rng_state()
    EVERYTHING(image, mask, key=(0, 0, 0))
    assert torch.random.get_rng_state().equal(state)
    assert image.equal(kept[0])
    assert mask.equal(kept[1])


def test_the_number_of_threads_changes_nothing() -> None:
    """A data-loader worker has one thread and the main process many; sums of floats would tell them apart."""
    image = torch.randint(256, (3, 500, 700), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(500, 700, dtype=torch.int64)
    augmentation = Augmentation((480, 640), jitter=0.5)
    threads = torch.get_num_threads()
    views = []
    try:
        for number in (1, 4):
            torch.set_num_threads(number)
            views.append([augmentation(image, mask, key=(0, 0, index))[0] for index in range(4)])
    finally:
        torch.set_num_threads(threads)
    assert all(one.equal(many) for one, many in zip(*views, strict=True))


@pytest.mark.parametrize("index", range(12))
def test_image_and_mask_stay_in_agreement(index: int) -> None:
    """Inside blocks the image still tells the label; only at their borders are labels mixed."""
    augmentation = Augmentation((64, 96), scale=(0.5, 3.0), vertical_flip=True, quarter_turns=True)
    image, mask = augmentation(*sample(), key=(0, 0, index))
    assert image.shape == (3, 64, 96)
    assert image.dtype == torch.uint8
    assert mask.shape == (64, 96)
    assert mask.dtype == torch.int64
    told = (image[0].float() / 50).round().long()
    inside = mask != 255
    # Two thirds at the smallest scale, where a block is 2.5 pixels wide.
    assert (told == mask)[inside].float().mean() > 0.66


@pytest.mark.parametrize("rows", [False, True])
def test_the_mask_is_not_shifted_against_the_image_when_resized(rows: bool) -> None:
    """A ramp at a third of its size: each pixel's image shows the middle of three, and so must the label."""
    mask = torch.arange(90).expand(90, 90)
    mask = mask.T if rows else mask
    augmentation = Augmentation((30, 30), scale=(1 / 3, 1 / 3), vertical_flip=True, quarter_turns=True)
    for index in range(10):
        # In single precision: how torchvision rounds 8 bits differs from version to version.
        image, labels = augmentation(mask[None].float(), mask, key=(0, 0, index))
        inner = (slice(2, -2), slice(2, -2))  # the antialiasing window is cut off at the border of the image
        assert (image[0][inner] - labels[inner]).abs().max() < 0.01


def test_where_the_image_ends_the_mask_ignores_and_the_image_is_grey() -> None:
    image, mask = torch.full((3, 20, 20), 250, dtype=torch.uint8), torch.ones(20, 20, dtype=torch.int64)
    places = set()
    for index in range(20):
        view, labels = Augmentation((40, 50), scale=(1.0, 1.0))(image, mask, key=(0, 0, index))
        padded = labels == 255
        assert (~padded).sum() == 400
        assert (view[:, ~padded] == 250).all()
        assert (view[:, padded] == torch.tensor([[124], [116], [104]])).all()
        places.add(tuple((~padded).nonzero()[0].tolist()))
    assert len(places) > 10  # the image lies anywhere in the crop, not in a corner


def test_the_scale_covers_its_range() -> None:
    """The number of pixels that one labelled stripe takes tells the factor."""
    image, mask = (
        torch.zeros(3, 200, 200, dtype=torch.uint8),
        torch.arange(200)[:, None].expand(200, 200) // 10,
    )
    factors = []
    for index in range(200):
        labels = Augmentation((100, 100), scale=(0.5, 2.0))(image, mask, key=(3, 0, index))[1]
        rows = labels[:, 50][labels[:, 50] != 255]
        factors.append(len(rows) / (10 * (rows.max() - rows.min() + 1).item()))
    assert 0.4 < min(factors) < 0.6
    assert 1.4 < max(factors) < 2.1


def test_the_switches_switch() -> None:
    image = torch.arange(48, dtype=torch.uint8).reshape(1, 6, 8)
    mask = image[0].long()
    plain = {"scale": (1.0, 1.0), "flip": False}
    keys = [(0, 0, index) for index in range(40)]

    def views(**switches: bool) -> set[tuple[int, ...]]:
        augmentation = Augmentation(None, **{**plain, **switches})  # type: ignore[arg-type]
        results = [augmentation(image, mask, key=key) for key in keys]
        assert all(view[0].long().equal(labels) for view, labels in results)
        return {tuple(labels.flatten().tolist()) for _, labels in results}

    def flat(labels: Tensor) -> tuple[int, ...]:
        return tuple(labels.flatten().tolist())

    assert views() == {flat(mask)}
    assert views(flip=True) == {flat(mask), flat(mask.flip(1))}
    assert views(vertical_flip=True) == {flat(mask), flat(mask.flip(0))}


def test_quarter_turns_are_the_four_rotations() -> None:
    image = torch.arange(36, dtype=torch.uint8).reshape(1, 6, 6)
    augmentation = Augmentation((6, 6), scale=(1.0, 1.0), flip=False, quarter_turns=True)
    found = {tuple(augmentation(image, image[0].long(), key=(0, 0, n))[1].flatten().tolist()) for n in range(40)}
    assert found == {tuple(image[0].rot90(turns).long().flatten().tolist()) for turns in range(4)}


def test_jitter_moves_no_pixel_and_stays_within_its_bounds() -> None:
    image, mask = sample()
    for index in range(8):
        plain = Augmentation((32, 48))(image, mask, key=(0, 0, index))
        jittered = Augmentation((32, 48), jitter=0.3)(image, mask, key=(0, 0, index))
        assert plain[1].equal(jittered[1])
        assert not plain[0].equal(jittered[0])
    grey = torch.full((3, 20, 20), 100, dtype=torch.uint8)
    levels = {
        int(Augmentation((20, 20), scale=(1, 1), jitter=0.3)(grey, mask[:20, :20], key=(0, 0, n))[0][0, 0, 0])
        for n in range(100)
    }
    # A flat grey image has no contrast and no saturation: brightness alone moves it.
    assert 70 <= min(levels) < 75
    assert 125 < max(levels) <= 130


def test_jitter_is_bit_for_bit_what_it_says() -> None:
    """Scaled about black, then about the mean grey, then each pixel about its own grey: whole images at a time."""
    image = torch.randint(256, (3, 45, 61), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    augmentation = Augmentation((45, 61), scale=(1.0, 1.0), flip=False, jitter=0.4)
    weights = (0.299, 0.587, 0.114)
    for index in range(6):
        view = augmentation.view((45, 61), key=(0, 0, index))
        assert view.jitter is not None
        brightness, contrast, saturation = view.jitter
        means = image.double().mean((1, 2)) * torch.tensor(weights, dtype=torch.float64)
        bright = image.float() * (brightness * contrast) + float(means.sum()) * brightness * (1 - contrast)
        grey = bright[0] * weights[0] + bright[1] * weights[1] + bright[2] * weights[2]
        expected = torch.lerp(grey.expand(3, -1, -1), bright, saturation).round().clamp(0, 255).to(torch.uint8)
        assert augmentation(image, image[0].long(), key=(0, 0, index))[0].equal(expected)


def test_images_of_other_than_3_channels_work_and_are_not_jittered() -> None:
    image = torch.randint(256, (5, 30, 30), dtype=torch.uint8)
    mask = torch.zeros(30, 30, dtype=torch.int64)
    view, _ = Augmentation((30, 30), scale=(1.0, 1.0), flip=False, jitter=0.5)(image, mask, key=(0, 0, 0))
    assert view.equal(image)
    assert Augmentation((50, 40))(image, mask, key=(0, 0, 0))[0].shape == (5, 50, 40)


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (131, 97)])
def test_any_image_fills_the_crop(size: tuple[int, int]) -> None:
    for index in range(10):
        view, labels = EVERYTHING(
            torch.zeros(3, *size, dtype=torch.uint8), torch.zeros(size, dtype=torch.int64), key=(0, 0, index)
        )
        assert view.shape == (3, 32, 48)
        assert labels.shape == (32, 48)
        assert (labels == 0).any()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"crop": (0, 5)}, r"crop is \(0, 5\); expected \[height, width\]"),
        ({"crop": (5,)}, r"crop is \(5,\); expected"),
        ({"crop": None, "scale": (2.0, 0.5)}, r"scale is \(2.0, 0.5\); expected \[smallest, largest\]"),
        ({"crop": None, "scale": (0.0, 1.0)}, "both above 0"),
        ({"crop": None, "jitter": 1.0}, "jitter is 1.0; expected 0 to less than 1"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Augmentation(**arguments)  # type: ignore[arg-type]


# What follows was not noticed when the code was changed on trial: each of these notices one such change.


def test_what_is_made_smaller_is_the_mean_of_what_it_stands_for() -> None:
    """Every fourth column is white: a quarter of the size is an even grey, which without antialiasing is black."""
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[..., 3::4] = 255
    shown, _ = Augmentation((16, 16), scale=(0.25, 0.25), flip=False)(image, image[0].long(), key=(0, 0, 0))
    assert (shown[..., 2:-2].float() - 255 / 4).abs().max() < 6


def test_the_two_flips_are_drawn_apart() -> None:
    mask = torch.arange(12).reshape(3, 4)
    augmentation = Augmentation(None, scale=(1.0, 1.0), flip=True, vertical_flip=True)
    found = [augmentation(mask[None].to(torch.uint8), mask, key=(0, 0, index))[1] for index in range(200)]
    for expected in (mask, mask.flip(0), mask.flip(1), mask.flip(0, 1)):
        assert 30 <= sum(view.equal(expected) for view in found) <= 70


def test_crops_begin_at_every_place_equally_often() -> None:
    augmentation = Augmentation((5, 6), scale=(1.0, 1.0))
    windows = [augmentation.view((8, 8), (0, 0, index)).window for index in range(1200)]
    for starts, count in (([window.top for window in windows], 4), ([window.left for window in windows], 3)):
        assert set(starts) == set(range(count))
        assert all(abs(starts.count(start) - 1200 / count) < 80 for start in range(count))


def test_the_scale_is_drawn_evenly_from_end_to_end() -> None:
    augmentation = Augmentation((1000, 1000), scale=(0.5, 2.0))
    factors = [1000 / augmentation.view((9999, 9999), (0, 0, index)).window.height for index in range(1000)]
    assert 0.499 < min(factors) < 0.51
    assert 1.99 < max(factors) < 2.005
    assert abs(sum(factors) / 1000 - 1.25) < 0.04


# Found by mutation (CONTRIBUTING): what each of these holds could be changed unnoticed before.


def test_a_crop_is_more_than_one_pixel() -> None:
    assert [Augmentation(crop).crop for crop in ((1, 2), (2, 1))] == [(1, 2), (2, 1)]
    with pytest.raises(UserError, match="more than one in all"):
        Augmentation((1, 1))


def test_by_default_images_are_mirrored_and_neither_turned_nor_coloured() -> None:
    views = [Augmentation((4, 4)).view((4, 4), (0, 0, index)) for index in range(40)]
    assert {view.flip for view in views} == {False, True}
    assert {(view.vertical_flip, view.turns, view.jitter) for view in views} == {(False, 0, None)}


def test_a_view_is_the_same_in_every_version() -> None:
    """Teacher caches and stopped runs were made with these views; the numbers are those of the first version."""
    everything = Augmentation((48, 64), (0.5, 2.0), vertical_flip=True, quarter_turns=True, jitter=0.4)
    first, other = (everything.view((60, 50), (7, 2, index)) for index in (0, 5))
    assert (first.window.top, first.window.left, first.window.height, first.window.width) == (10, 10, 34, 26)
    assert (first.scaled, first.target) == ((64, 48), (64, 48))
    assert (first.flip, first.vertical_flip, first.turns) == (True, True, 1)
    assert first.jitter == (0.8569727140738547, 1.205565006679722, 1.0011423356012674)
    assert (other.window.height, other.window.width, other.scaled) == (60, 50, (41, 35))
    assert other.place == (0.7257899177656897, 0.24536865214744275)
    assert (other.flip, other.vertical_flip, other.turns) == (False, False, 0)


def test_everything_is_drawn_apart() -> None:
    """No two of the numbers that a view is made of go together."""
    everything = Augmentation((500, 500), scale=(0.5, 2.0), vertical_flip=True, quarter_turns=True, jitter=0.4)
    views = [everything.view((4000, 4000), (1, 0, index)) for index in range(1000)]
    rows = [
        [view.turns, 500 / view.window.height, *view.place, *(view.jitter or ()), view.flip, view.vertical_flip]
        for view in views
    ]
    related = torch.corrcoef(torch.tensor(rows, dtype=torch.float64).T)
    assert related.fill_diagonal_(0).abs().max() < 0.12  # almost four times the deviation of chance, 0.03
    assert all(200 < [view.turns for view in views].count(turns) < 300 for turns in range(4))


def test_windows_may_be_a_single_pixel() -> None:
    labels = torch.arange(9).reshape(3, 3)
    view, mask = Augmentation((2, 2), scale=(4.0, 4.0))(labels[None].to(torch.uint8), labels, key=(0, 0, 0))
    assert len(mask.unique()) == len(view.unique()) == 1


@pytest.mark.parametrize(("full", "factor", "left"), [((1, 1), 1.0, 1), ((20, 12), 0.5, 10 * 6), ((1, 4), 0.4, 2)])
def test_what_is_smaller_than_the_crop_keeps_its_scale(full: tuple[int, int], factor: float, left: int) -> None:
    image, mask = torch.zeros(3, *full, dtype=torch.uint8), torch.zeros(full, dtype=torch.int64)
    labels = Augmentation((30, 40), scale=(factor, factor))(image, mask, key=(0, 0, 0))[1]
    assert (labels == 0).sum() == left


def test_small_images_lie_at_every_place_of_the_crop_equally_often() -> None:
    mask = torch.zeros(2, 3, dtype=torch.int64)
    places = []
    for index in range(600):
        labels = Augmentation((4, 4), scale=(1.0, 1.0))(mask.expand(3, -1, -1).byte(), mask, key=(0, 0, index))[1]
        places.append(tuple((labels == 0).nonzero()[0].tolist()))
    assert set(places) == {(row, column) for row in range(3) for column in range(2)}
    assert all(60 < places.count(place) < 140 for place in set(places))


@pytest.mark.parametrize(
    ("image", "fill", "expected"),
    [
        (torch.full((3, 2, 2), 9, dtype=torch.uint8), [1.0, 2.0, 3.0], [1, 2, 3]),
        (torch.full((5, 2, 2), 9, dtype=torch.uint8), None, [128] * 5),
        (torch.full((3, 2, 2), 9.0), None, [0, 0, 0]),  # in a unit that only the data set knows
        (torch.full((2, 2, 2), 9.0), [0.5, -7.0], [0.5, -7.0]),
    ],
)
def test_what_padding_shows(image: Tensor, fill: list[float] | None, expected: list[float]) -> None:
    mask = torch.zeros(2, 2, dtype=torch.int64)
    view, labels = Augmentation((4, 5), scale=(1.0, 1.0), jitter=0.3)(image, mask, key=(0, 0, 0), fill=fill)
    assert view.dtype == image.dtype
    assert (view[:, labels == 255] == torch.tensor(expected)[:, None]).all()


def test_jittered_images_are_still_bytes() -> None:
    image, mask = sample()
    assert EVERYTHING(image, mask, key=(0, 0, 0))[0].dtype == torch.uint8


def test_a_closer_view_shows_the_same_place_with_more_pixels() -> None:
    image, mask = sample()
    turning = Augmentation((20, 30), scale=(1.0, 1.0), vertical_flip=True, quarter_turns=True)
    for index in range(6):
        view = turning.view((40, 60), key=(0, 0, index))
        plain, labels = view.apply(view.window.cut(image), view.window.cut(mask))
        close = view.closer(3, read_larger=True)
        large = [one.repeat_interleave(3, -1).repeat_interleave(3, -2) for one in (image, mask)]
        found, found_labels = close.apply(close.window.cut(large[0]), close.window.cut(large[1]))
        assert found.equal(plain.repeat_interleave(3, -1).repeat_interleave(3, -2))
        assert found_labels.equal(labels)


def test_a_closer_view_of_an_image_that_has_no_more_pixels() -> None:
    image, mask = sample()
    view = Augmentation((20, 30), scale=(1.0, 1.0)).view((40, 60), key=(0, 0, 0))
    plain, labels = view.apply(view.window.cut(image), view.window.cut(mask))
    close = view.closer(3, read_larger=False)
    found, found_labels = close.apply(close.window.cut(image), close.window.cut(mask))
    assert found.shape == (3, 60, 90)
    assert found[:, 1::3, 1::3].equal(plain)  # the middle of each pixel, between its neighbours
    assert found_labels.equal(labels)


def test_where_a_small_image_lies_in_its_crop() -> None:
    """The free rows and columns are shared out by two numbers of their own, each place as likely as another."""
    augmentation = Augmentation((40, 55), scale=(1.0, 1.0), flip=False)
    image, mask = torch.zeros(3, 10, 20, dtype=torch.uint8), torch.zeros(10, 20, dtype=torch.int64)
    for index in range(8):
        inside = augmentation(image, mask, key=(0, 0, index))[1] == 0
        rows, columns = (int(inside.any(side).nonzero().min()) for side in (1, 0))
        place = augmentation.view((10, 20), key=(0, 0, index)).place
        assert (rows, columns) == (math.floor(31 * place[0]), math.floor(36 * place[1]))
        assert inside.sum() == 200
