from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

from segdistill.data.ahead import ahead
from segdistill.data.tiling import Grid, Piece, Scorer, blended, rising, spans
from segdistill.datasets.base import Window
from segdistill.errors import UserError
from segdistill.prediction.flips import Flips, flipped

CLASSES = 3
CPU = torch.device("cpu")


def network(kernels: tuple[int, ...] = (3, 3), strides: tuple[int, ...] = (1, 1), seed: int = 0) -> nn.Module:
    """Convolutions padded with zeros; scores are brought to the image's size by repeating them."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    channels = 3
    for index, (kernel, stride) in enumerate(zip(kernels, strides, strict=True)):
        wide = CLASSES if index == len(kernels) - 1 else 5
        layers += [nn.Conv2d(channels, wide, kernel, stride, kernel // 2), nn.Tanh()]
        channels = wide
    layers.append(nn.Upsample(scale_factor=math.prod(strides), mode="nearest"))
    return nn.Sequential(*layers).double()


def grid_over(size: tuple[int, int], *, window: int, overlap: int, stride: int) -> Grid:
    return Grid(*(spans(side, window=window, overlap=overlap, stride=stride) for side in size))


def scores_of(model: nn.Module) -> Scorer:
    """In double precision, so that no two classes are equal but for rounding; cropped to the image."""

    def scores(images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        return model(images.double())[..., :height, :width]

    return scores


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed))


def pieces(image: Tensor, scores: Scorer, grid: Grid, **options: int) -> Iterator[Piece]:
    return blended(lambda window: (window.cut(image), None), scores, grid, classes=CLASSES, device=CPU, **options)


def put_together(found: Iterator[Piece], height: int, width: int) -> Tensor:
    whole = torch.full((CLASSES, height, width), math.nan)
    for _, window, scores, _ in found:
        assert window.cut(whole).isnan().all()  # each pixel once
        window.cut(whole).copy_(scores)
    return whole


@pytest.mark.parametrize("window", [96, 128, 1024])
@pytest.mark.parametrize("stride", [1, 8, 32])
@pytest.mark.parametrize("share", [0, 32])
def test_spans_cover_each_pixel_and_begin_on_the_networks_grid(window: int, stride: int, share: int) -> None:
    for length in [*range(1, 300, 7), 1023, 1024, 1025, 4096, 20_000]:
        found = spans(length, window=window, overlap=share, stride=stride)
        assert found[0].start == found[0].before == found[-1].after == 0
        assert found[-1].start + found[-1].length == length
        assert all(span.start % stride == 0 and 0 < span.length <= window for span in found)
        for one, other in itertools.pairwise(found):
            assert one.start + one.length - other.start == one.after == other.before == share
            assert one.own > 0
        for one, other in zip(found, found[2:], strict=False):
            assert one.start + one.length <= other.start
        # No more windows than there must be.
        assert len(found) == max(1, math.ceil((length - share) / (window - share)))


def test_weights_add_up_to_one_and_vanish_at_the_border() -> None:
    for overlap in (4, 32, 128):
        weights = rising(overlap)
        assert len(weights) == overlap
        # What one window gains the other loses, whichever way round.
        assert torch.allclose(weights + weights.flip(0), torch.ones(overlap))
        assert (weights[: overlap // 4] == 0).all()
        assert (weights.diff() >= 0).all()
        middle = weights[overlap // 4 : overlap - overlap // 4]
        expected = [0.5 - 0.5 * math.cos(math.pi * (i + 0.5) / len(middle)) for i in range(len(middle))]
        assert torch.allclose(middle, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("size", [(20, 30), (64, 64), (65, 200), (150, 131), (201, 97)])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_labels_are_those_of_the_whole_image_where_the_receptive_field_fits_everywhere(
    size: tuple[int, int], batch_size: int
) -> None:
    """Two 3 x 3 and one 5 x 5 convolutions see 4 pixels around; 16 shared pixels leave 4 without weight."""
    scores = scores_of(network((3, 5, 3), (1, 1, 1)))
    image = picture(*size)
    grid = grid_over(size, window=64, overlap=16, stride=1)
    found = put_together(pieces(image, scores, grid, batch_size=batch_size), *size)
    expected = scores(image[None])[0]
    assert torch.allclose(found.double(), expected, atol=1e-6)
    assert found.argmax(0).equal(expected.argmax(0))


def test_labels_agree_for_a_network_of_some_stride() -> None:
    """Strides 2 and 4 in all: windows that began elsewhere would be sampled elsewhere."""
    scores = scores_of(network((3, 3, 3), (2, 2, 1)))
    image = picture(190, 230)
    expected = scores(image[None])[0]
    # 1 + 2 + 4 pixels to each side, and the rest of a cell of 4.
    found = put_together(pieces(image, scores, grid_over((190, 230), window=96, overlap=32, stride=4)), 190, 230)
    assert torch.allclose(found.double(), expected, atol=1e-6)
    off = put_together(pieces(image, scores, grid_over((190, 230), window=90, overlap=30, stride=1)), 190, 230)
    assert (off.argmax(0) != expected.argmax(0)).float().mean() > 0.01


def test_with_a_wider_receptive_field_labels_agree_where_it_fits() -> None:
    reach = 10
    scores = scores_of(network((2 * reach + 1,), (1,)))
    size = (120, 150)
    image, grid = picture(*size), grid_over(size, window=64, overlap=16, stride=1)
    expected = scores(image[None])[0]
    found = put_together(pieces(image, scores, grid), *size)
    fits = torch.ones(size, dtype=torch.bool)
    for side, axis in ((grid.rows, 0), (grid.columns, 1)):
        for span in side:
            places = torch.arange(size[axis])
            inside = (places >= span.start) & (places < span.start + span.length)
            near = (span.before > 0) & (places - span.start < reach)
            near |= (span.after > 0) & (span.start + span.length - 1 - places < reach)
            unfit = inside & near
            fits &= ~(unfit[:, None] if axis == 0 else unfit[None])
    assert 0.2 < fits.float().mean() < 0.9
    assert torch.allclose(found.double()[:, fits], expected[:, fits], atol=1e-6)
    assert not torch.allclose(found.double()[:, ~fits], expected[:, ~fits], atol=1e-3)


def test_windows_that_disagree_leave_no_seam() -> None:
    """Each window says another constant; from one to the other it goes no steeper than the weights."""
    constants = itertools.cycle([0.0, 1.0, -1.0, 0.5])

    def scores(images: Tensor) -> Tensor:
        return torch.full((1, CLASSES, *images.shape[-2:]), next(constants))

    size = (300, 300)
    found = put_together(
        pieces(torch.zeros(3, *size), scores, grid_over(size, window=128, overlap=32, stride=1)), *size
    )
    assert found.max() - found.min() == 2
    steepest = 2 * math.pi / 2 / 16  # twice the slope of sin^2 over the middle 16 pixels
    assert found.diff(dim=1).abs().max() <= steepest
    assert found.diff(dim=2).abs().max() <= steepest


@pytest.mark.parametrize(("flips", "axes"), [("horizontal", [(), (2,)]), ("both", [(), (1,), (2,), (1, 2)])])
def test_flips_average_mirror_images(flips: Flips, axes: list[tuple[int, ...]]) -> None:
    scores = scores_of(network())
    image = picture(40, 50)
    expected = sum(scores(image.flip(axis)[None])[0].flip(axis) for axis in axes) / len(axes)
    assert torch.allclose(flipped(scores, flips)(image[None])[0].double(), expected, atol=1e-6)
    assert not torch.allclose(scores(image[None])[0], expected, atol=1e-3)
    assert flipped(scores, "none") is scores


def test_windows_without_data_are_not_asked_for() -> None:
    missing = torch.zeros(200, 200, dtype=torch.bool)
    missing[:, :90] = True
    seen: list[int] = []

    def scores(images: Tensor) -> Tensor:
        seen.append(len(images))
        return torch.ones(len(images), CLASSES, *images.shape[-2:])

    grid = grid_over((200, 200), window=80, overlap=8, stride=1)
    image = torch.zeros(3, 200, 200)
    found = list(
        blended(
            lambda window: (window.cut(image), window.cut(missing)),
            scores,
            grid,
            classes=CLASSES,
            device=CPU,
            batch_size=2,
        )
    )
    assert sum(seen) == 6
    assert len(grid) == len(found) == 9
    for piece in found:
        assert piece.missing is not None
        assert piece.missing.equal(piece.window.cut(missing))
        assert torch.allclose(piece.scores[:, ~piece.missing], torch.ones(1))


def test_going_on_at_any_row_gives_the_same_bits() -> None:
    size = (250, 120)
    scores, image = scores_of(network((7, 7), (1, 1))), picture(*size)
    grid = grid_over(size, window=64, overlap=16, stride=1)
    whole = list(pieces(image, scores, grid, batch_size=2))
    for row in range(1, len(grid.rows)):
        rest = list(pieces(image, scores, grid, batch_size=2, first_row=row))
        expected = [piece for piece in whole if piece.row >= row]
        assert [piece.window for piece in rest] == [piece.window for piece in expected]
        assert all(one.scores.equal(other.scores) for one, other in zip(rest, expected, strict=True))


def test_batches_hold_windows_of_one_size() -> None:
    shapes: list[torch.Size] = []

    def scores(images: Tensor) -> Tensor:
        shapes.append(images.shape)
        return torch.zeros(len(images), CLASSES, *images.shape[-2:])

    size = (64, 500)
    grid = grid_over(size, window=64, overlap=16, stride=8)
    assert len(list(pieces(torch.zeros(3, *size), scores, grid, batch_size=4))) == len(grid) == 11
    assert [shape[0] for shape in shapes] == [4, 4, 2, 1]
    assert shapes[0][-2:] == (64, 64)
    assert shapes[-1][-1] < 64


def test_what_a_model_gives_back_is_not_changed() -> None:
    kept: list[Tensor] = []

    def scores(images: Tensor) -> Tensor:
        kept.append(images)
        return images

    size = (100, 100)
    image = picture(*size)
    found = put_together(pieces(image, scores, grid_over(size, window=48, overlap=16, stride=1)), *size)
    assert torch.allclose(found, image, atol=1e-6)
    assert kept[0][0].equal(image[:, : kept[0].shape[-2], : kept[0].shape[-1]])


def test_scores_of_another_shape_are_told() -> None:
    grid = grid_over((20, 30), window=64, overlap=16, stride=1)
    with pytest.raises(UserError, match=r"scores of shape \(1, 3, 10, 15\); expected \(1, 3, 20, 30\) for 3 classes"):
        list(pieces(picture(20, 30), lambda images: images[..., ::2, ::2], grid))


def test_too_little_memory_is_told() -> None:
    def scores(images: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    grid = grid_over((20, 30), window=64, overlap=16, stride=1)
    with pytest.raises(UserError, match="too little memory for 1 windows of 30 x 20 pixels at once; choose a smaller"):
        list(pieces(picture(20, 30), scores, grid))


def test_reading_ahead_keeps_order_and_passes_errors_on() -> None:
    with ThreadPoolExecutor(2) as workers:
        assert list(ahead(workers, lambda x: x * x, range(9))) == [(x, x * x) for x in range(9)]
        found = ahead(workers, lambda x: 1 / (x - 3), range(9))
        assert [next(found)[0] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ZeroDivisionError):
            next(found)


def test_a_window_is_read_when_it_is_needed_soon() -> None:
    """Not the whole image ahead of a slow network."""
    read: list[Window] = []

    def reading(window: Window) -> tuple[Tensor, None]:
        read.append(window)
        return torch.zeros(3, window.height, window.width), None

    grid = grid_over((64, 4000), window=64, overlap=16, stride=1)
    found = blended(
        reading, lambda images: torch.zeros(1, CLASSES, *images.shape[-2:]), grid, classes=CLASSES, device=CPU
    )
    for _ in range(10):
        next(found)
    found.close()  # type: ignore[attr-defined]
    assert 10 <= len(read) <= 13
