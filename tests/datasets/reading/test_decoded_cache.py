"""Decoded images that are kept are those of the files, in memory and on disk, in every process."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segdistill.data import Augmentation, EvaluationSamples, TrainingSamples
from segdistill.datasets import Folder, SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.datasets.reading import decoded_cache as module
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.datasets.reading.masks import MaskReader, resized_labels
from segdistill.errors import UserError
from segdistill.recipe.data import build_data, keep_decoded
from tests.datasets.reading.keeping import CLASSES, counting, keep, silent, tree, values
from tests.datasets.test_isprs import vaihingen_tree
from tests.datasets.trees import index_mask, write_mask
from tests.training.runs import fingerprint, train_tiny


@pytest.fixture(params=["ram", "disk"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "ram" if request.param == "ram" else str(tmp_path / "kept")


def test_samples_windows_and_labels_are_the_same(tmp_path: Path, where: str) -> None:
    root = tree(tmp_path / "data")
    plain, data = build_data(values(root)), keep(root, where)
    for split in ("train", "val"):
        original, kept = getattr(plain, split), getattr(data, split)
        assert isinstance(kept, DecodedCache)
        assert (kept.ids, kept.classes, kept.palette) == (original.ids, original.classes, original.palette)
        for index in range(-1, len(original)):
            for one, other in zip(original[index], kept[index], strict=True):
                assert one.equal(other)
                assert one.dtype == other.dtype
            window = Window(2, 3, 4, 5)
            pairs = zip(original.open(index).window(window), kept.open(index).window(window), strict=True)
            assert all(one.equal(other) for one, other in pairs)
            assert kept.open(index).size == original.open(index).size
            assert kept.labels(index).equal(original.labels(index))


def test_views_are_the_same_and_nothing_is_decoded_again(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path / "data")
    augmentation = Augmentation((16, 16), quarter_turns=True, jitter=0.4)
    plain = TrainingSamples(build_data(values(root)).train, augmentation, seed=3)
    data = keep(root, where)
    decoded = counting(monkeypatch)
    kept = TrainingSamples(data.train, augmentation, seed=3)
    for epoch in range(3):
        for index in range(len(kept)):
            image, _ = kept[epoch, index]
            image += 1  # whoever changes what he got changes nothing that is kept
    assert not decoded
    for index in range(len(kept)):
        assert all(one.equal(other) for one, other in zip(plain[1, index], kept[1, index], strict=True))


@pytest.mark.parametrize("loss", ["ce", "balanced"])
def test_a_run_is_the_same_bit_for_bit(tmp_path: Path, loss: str) -> None:
    root = tree(tmp_path / "data")
    prints = {
        fingerprint(train_tiny(tmp_path / f"run{number}", data=values(root, **more), loss=loss, epochs=2))
        for number, more in enumerate(({}, {"decoded_cache": "ram"}, {"decoded_cache": str(tmp_path / "kept")}))
    }
    assert len(prints) == 1


def test_attributes_that_training_and_evaluation_go_by_are_kept(tmp_path: Path, where: str) -> None:
    root = tree(tmp_path / "data")
    data = keep(root, where, crops_per_image=3, evaluation_window=64)
    assert data.train.crops_per_image == 3
    assert data.val.evaluation_window == 64
    assert len(TrainingSamples(data.train, data.augmentation, 0)) == 3 * 7


def test_scores_of_resized_images_are_taken_of_what_is_kept(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images as a network sees them, labels at the size of their files; nothing is read again."""
    root = tree(tmp_path / "data")
    plain = EvaluationSamples.of(build_data(values(root, resize=[6, 8])).val)
    expected = [plain[index] for index in range(len(plain))]
    data = keep(root, where, resize=[6, 8])
    held_out = [data.val[index] for index in range(len(plain))]
    decoded = counting(monkeypatch)
    monkeypatch.setattr(MaskReader, "read", None)
    kept = EvaluationSamples.of(data.val)
    for index, one in enumerate(expected):
        image, labels = kept[index][1:]
        assert image is not None
        assert labels is not None
        assert image.shape[-2:] == (6, 8) != labels.shape == plain.dataset.open(index).size
        assert image.equal(one.image)
        assert labels.equal(one.labels)
        assert held_out[index][0].equal(image)
        assert held_out[index][1].equal(resized_labels(labels.long(), (6, 8)))
    assert not decoded


def test_resized_images_are_kept_resized(tmp_path: Path, where: str) -> None:
    root = tree(tmp_path / "data")
    plain, data = build_data(values(root, resize=[6, 8])), keep(root, where, resize=[6, 8])
    assert all(one.equal(other) for one, other in zip(plain.train[5], data.train[5], strict=True))
    assert data.train[5][0].shape == (3, 6, 8)
    assert data.train.labels(5).shape == plain.train.labels(5).shape == (7, 9)


def test_bands_of_any_number_and_type(tmp_path: Path, where: str) -> None:
    full, eroded = "gts_for_participants", "gts_eroded_for_participants"
    for split in ("train", "test"):
        root = vaihingen_tree(tmp_path / "data", split, full=full, eroded=eroded)
    recipe = {"dataset": "vaihingen", "root": str(root), "ndsm": True, "crop": [8, 8]}
    plain = build_data(recipe)
    data = keep_decoded(build_data(recipe | {"decoded_cache": where}), silent())
    assert data.train.in_channels == 4
    assert all(one.equal(other) for one, other in zip(plain.val[3], data.val[3], strict=True))


class Floats(SegmentationDataset):
    """Images of float32, of odd sizes."""

    def __init__(self, labels: int = 0) -> None:
        super().__init__(classes=("a", "b"), ids=("x", "y"), in_channels=2)
        self.value = labels

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(2, 3, 5 + index, generator=generator), torch.full((3, 5 + index), self.value)


def test_float32_images(tmp_path: Path) -> None:
    for file in (None, tmp_path / "kept" / "train"):
        kept = DecodedCache(Floats(), file, {}, console=silent())
        for index in range(2):
            assert all(one.equal(other) for one, other in zip(Floats()[index], kept[index], strict=True))
    with pytest.raises(UserError, match="sample x holds labels from 256 to 256, outside the classes 0 to 1"):
        DecodedCache(Floats(labels=256), None, {}, console=silent())


def test_memory_is_shared_with_forked_readers(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    data = keep(root, "ram")
    shutil.rmtree(root)  # only what is kept is left
    loader = DataLoader(data.train, batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert [image.shape[-2:] for image, _ in loader] == [(12, 16)] * 5 + [(7, 9), (30, 21)]
    # Written by one process, seen by another: the pages are the same ones.
    kept = data.train
    assert isinstance(kept, DecodedCache)
    assert isinstance(kept._store, module._Memory)
    child = os.fork()
    if child == 0:
        kept._store.bytes[:3] = 77
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert kept._store.bytes[:3].tolist() == [77, 77, 77]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_readers_that_are_not_forked(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "data")
    plain = [image for image, _ in build_data(values(root)).val]
    monkeypatch.setattr(module, "_processes_are_forked", lambda: False)
    data = keep(root, "ram" if kind == "ram" else tmp_path / "kept")
    shutil.rmtree(root)
    loader = DataLoader(data.val, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert all(one.equal(other) for one, (other, _) in zip(plain, loader, strict=True))


@pytest.mark.parametrize("decoded_cache", [True, 3, "", ["ram"]])
def test_keep_is_ram_or_a_folder(tmp_path: Path, decoded_cache: Any) -> None:
    with pytest.raises(UserError, match=r"data: decoded_cache is .*, expected ram, or a folder for decoded images"):
        build_data(values(tree(tmp_path), decoded_cache=decoded_cache))


def test_a_few_images_to_overfit_stay_in_memory(tmp_path: Path) -> None:
    data = build_data(values(tree(tmp_path / "data"), decoded_cache=str(tmp_path / "kept")), overfit=2)
    few = keep_decoded(data, silent())
    assert few.val is few.train
    assert len(few.train) == 2
    assert few.train[1][0].equal(data.train[1][0])
    assert not (tmp_path / "kept").exists()


def test_the_first_image_that_cannot_be_read_is_named(tmp_path: Path, where: str) -> None:
    root = tree(tmp_path / "data")
    for name in ("train3", "train1"):
        path = root / "masks" / "train" / f"{name}.png"
        write_mask(path, index_mask(3) + 100)
    with pytest.raises(UserError, match=r"train1.png holds the label values 100"):
        keep(root, where)


def test_data_set_as_such(tmp_path: Path) -> None:
    """Python without a recipe."""
    root = tree(tmp_path)
    kept = DecodedCache(Folder(root, CLASSES), None, {}, console=silent())
    assert len(kept) == 7
