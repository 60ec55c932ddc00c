from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segdistill import Network
from segdistill.data import statistics
from segdistill.data.statistics import BandStatistics, band_statistics
from segdistill.datasets import Folder, SegmentationDataset
from segdistill.datasets.reading import checking
from segdistill.errors import UserError


class Given(SegmentationDataset):
    """The samples it is given."""

    def __init__(self, *samples: tuple[Tensor, Tensor]) -> None:
        super().__init__(
            classes=("a", "b"), ids=[str(n) for n in range(len(samples))], in_channels=samples[0][0].shape[0]
        )
        self.samples = samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.samples[index]


def sample(height: int, width: int, dtype: torch.dtype, seed: int, offset: float = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (height, width), generator=generator)
    image = torch.randint(256, (4, height, width), generator=generator).to(dtype)
    return image + offset if offset else image, torch.where(labels == 2, 255, labels)


def plain(*samples: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray, int]:
    """All labelled pixels side by side, in float64: mean, standard deviation, number."""
    pixels = np.concatenate([image.double().numpy()[:, (labels != 255).numpy()] for image, labels in samples], axis=1)
    return pixels.mean(1), pixels.std(1), pixels.shape[1]


@pytest.mark.parametrize("rows", [1, 7, 512])
def test_uint8_images_count_in_0_to_1(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PIECE_ROWS", rows)
    monkeypatch.setattr(checking, "PIECE_PIXELS", 1)
    monkeypatch.setattr(statistics, "_PIXELS", 5)
    samples = [sample(10, 9, torch.uint8, 0), sample(23, 31, torch.uint8, 1), sample(1, 2, torch.uint8, 2)]
    mean, std, count = plain(*samples)
    found = band_statistics(Given(*samples))
    assert found.pixels == count
    np.testing.assert_allclose(found.mean, mean / 255, rtol=1e-13)
    np.testing.assert_allclose(found.std, std / 255, rtol=1e-13)
    pixels = np.concatenate([image.numpy()[:, (labels != 255).numpy()] for image, labels in samples], axis=1)
    np.testing.assert_array_equal(found.minimum, pixels.min(1) / 255)
    np.testing.assert_array_equal(found.maximum, pixels.max(1) / 255)
    assert found.ignored == pytest.approx(1 - count / (90 + 713 + 2))


def test_float_images_count_as_they_are_and_a_large_mean_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "PIECE_ROWS", 3)
    monkeypatch.setattr(checking, "PIECE_PIXELS", 1)
    samples = [sample(20, 30, torch.float32, seed, offset=1e6) for seed in range(3)]
    mean, std, count = plain(*samples)
    found = band_statistics(Given(*samples))
    assert found.pixels == count
    np.testing.assert_allclose(found.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(found.std, std, rtol=1e-12)


def test_ignored_pixels_do_not_count() -> None:
    image, labels = sample(12, 12, torch.float32, 0)
    spoilt = torch.where(labels == 255, torch.tensor(1e30), image)
    assert band_statistics(Given((spoilt, labels))) == band_statistics(Given((image, labels)))
    whole_image_ignored = (image * 7, torch.full_like(labels, 255))
    more, less = band_statistics(Given((image, labels), whole_image_ignored)), band_statistics(Given((image, labels)))
    assert more == replace(less, ignored=(1 + less.ignored) / 2)


def test_pixels_without_data_are_told_of_apart(tmp_path: Path) -> None:
    """Bands of floats in a file: the first two rows are the file's nodata value in one band, one pixel is NaN."""
    rasterio = pytest.importorskip("rasterio")
    bands = np.random.default_rng(0).uniform(1, 2, (4, 40, 50)).astype(np.float32)
    bands[1, :2], bands[3, 9, 9] = -9999, np.nan
    labels = np.ones((40, 50), np.uint8)
    labels[30:] = 255
    for kind, pixels, more in (("images", bands, {"nodata": -9999}), ("masks", labels[None], {})):
        (tmp_path / kind / "train").mkdir(parents=True)
        profile = {"count": len(pixels), "height": 40, "width": 50, "dtype": pixels.dtype, **more}
        with rasterio.open(tmp_path / kind / "train/a.tif", "w", driver="GTiff", **profile) as file:
            file.write(pixels)
    found = band_statistics(Folder(tmp_path, ("a", "b"), bands=(2, 4)))
    counted = bands[:, :30].reshape(4, -1)[:, [index for index in range(1500) if index >= 100 and index != 459]]
    np.testing.assert_allclose(found.mean, counted[[1, 3]].mean(1, dtype=np.float64), rtol=1e-12)
    np.testing.assert_array_equal(found.minimum, counted[[1, 3]].min(1))
    np.testing.assert_array_equal(found.maximum, counted[[1, 3]].max(1))
    assert (found.pixels, found.ignored, found.missing) == (1399, 601 / 2000, 101 / 2000)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_network_so_normalised_sees_mean_0_and_deviation_1(dtype: torch.dtype) -> None:
    dataset = Given(*(sample(16, 16, dtype, seed) for seed in range(4)))
    found = band_statistics(dataset)
    model = nn.Sequential(nn.MaxPool2d(4, 4), nn.Conv2d(4, 2, 1))
    network = Network(model, stages=["0"], embedding="0", logits="1", in_channels=4)
    network.set_normalization(found.mean, found.std)
    seen: list[Tensor] = []
    network.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.stack([dataset[index][0] for index in range(4)]))
    valid = torch.stack([dataset[index][1] for index in range(4)]) != 255
    pixels = seen[0].permute(1, 0, 2, 3)[:, valid]
    assert torch.allclose(pixels.mean(1), torch.zeros(4), atol=1e-5)
    assert torch.allclose(pixels.std(1, correction=0), torch.ones(4), atol=1e-5)


def test_a_file_gives_back_what_was_saved_to_the_last_bit(tmp_path: Path) -> None:
    found = band_statistics(Given(sample(9, 9, torch.uint8, 0)))
    found.save(tmp_path / "run" / "bands.json")
    assert BandStatistics.load(tmp_path / "run" / "bands.json") == found


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"mean": [1.0]}', '{"mean": [1.0], "std": ["x"], "pixels": 1}', '{"mean": 1, "std": 1, "pixels": 1}'],
)
def test_a_file_of_something_else_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "bands.json").write_text(text)
    with pytest.raises(UserError, match=r"bands.json holds no band statistics; expected a file that"):
        BandStatistics.load(tmp_path / "bands.json")


def test_numbers_that_normalise_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*none.json: No such file or directory"):
        BandStatistics.load(tmp_path / "none.json")
    found = band_statistics(Given(sample(9, 9, torch.uint8, 0)))
    for wrong in ({"std": found.std[:1]}, {"std": (0.1, 0.1, 0.1, 0.0)}, {"mean": (float("nan"), 0.1, 0.1, 0.1)}):
        replace(found, **wrong).save(tmp_path / "bands.json")
        with pytest.raises(UserError, match=r"bands.json holds mean .* and std .*; expected a number each"):
            BandStatistics.load(tmp_path / "bands.json")


def test_data_without_statistics_are_told() -> None:
    image, labels = sample(8, 8, torch.uint8, 0)
    with pytest.raises(UserError, match="no pixel of the 1 images from 0 on has a label"):
        band_statistics(Given((image, torch.full_like(labels, 255))))
    image[2] = 51
    with pytest.raises(UserError, match=r"channel 3 of the images is 51 in every pixel; leave that band out"):
        band_statistics(Given((image, labels)))
    with pytest.raises(UserError, match="sample 1 has 3 bands; expected 4"):
        band_statistics(Given(sample(8, 8, torch.uint8, 0), (image[:3], labels)))
