from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from segdistill.data import (
    Augmentation,
    EpochSampler,
    EvaluationLoader,
    EvaluationSamples,
    TrainingSamples,
    training_loader,
)
from segdistill.data.loading import reading
from segdistill.datasets import Folder, SyntheticAerial
from segdistill.errors import UserError
from tests.datasets.trees import folder_tree

AUGMENTATION = Augmentation((24, 32), quarter_turns=True, jitter=0.3)


def two_epochs(loader: DataLoader[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    batches = []
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        batches.extend(tuple(batch) for batch in loader)
    return batches


def test_batches_do_not_depend_on_the_number_of_workers_nor_on_the_global_seed() -> None:
    dataset = SyntheticAerial(count=7, size=(40, 40))
    torch.manual_seed(1)
    state = torch.random.get_rng_state()
    alone = two_epochs(training_loader(dataset, AUGMENTATION, batch_size=3, seed=4, workers=0))
    assert torch.random.get_rng_state().equal(state)
    torch.manual_seed(2)
    helped = two_epochs(training_loader(dataset, AUGMENTATION, batch_size=3, seed=4, workers=2))
    assert len(alone) == len(helped) == 4
    for (images_a, labels_a), (images_b, labels_b) in zip(alone, helped, strict=True):
        assert images_a.shape == (3, 3, 24, 32)
        assert images_a.dtype == torch.uint8
        assert labels_a.shape == (3, 24, 32)
        assert labels_a.dtype == torch.uint8  # one byte a pixel from process to process
        assert images_a.equal(images_b)
        assert labels_a.equal(labels_b)
    assert not alone[0][0].equal(alone[2][0])


def test_what_goes_with_a_sample_is_of_the_view_that_it_shows() -> None:
    """With two views the third epoch shows the first ones again."""
    asked: list[tuple[int, int]] = []

    def attach(view: int, index: int) -> dict[str, Tensor]:
        asked.append((view, index))
        return {"seen": torch.tensor([view, index])}

    dataset = SyntheticAerial(count=3, size=(40, 40))
    samples = TrainingSamples(dataset, AUGMENTATION, seed=0, views=2, attach=attach)
    for epoch in range(5):
        for index in range(3):
            image, _, kept = samples[epoch, index]
            assert kept["seen"].tolist() == [epoch % 2, index]
            assert image.equal(samples[epoch % 2, index][0])
    assert {view for view, _ in asked} == {0, 1}


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = EpochSampler(100, seed, batch_size=4)
        sampler.set_epoch(epoch)
        assert {found for found, _ in sampler} == {epoch}
        return [index for _, index in sampler]

    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(*key)) for key in ((0, 0), (0, 1), (1, 0), (1, 1))}) == 4
    assert sorted(order(0, 3)) == list(range(100))


def test_what_fills_no_batch_is_left_out_and_is_another_part_each_epoch() -> None:
    sampler = EpochSampler(10, seed=0, batch_size=4)
    left_out = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        indices = [index for _, index in sampler]
        assert len(indices) == len(set(indices)) == len(sampler) == 8
        left_out |= set(range(10)) - set(indices)
    assert left_out == set(range(10))


def test_a_data_set_smaller_than_a_batch_still_fills_it_with_different_views() -> None:
    dataset = SyntheticAerial(count=3, size=(40, 40))
    (images, _), *rest = list(training_loader(dataset, AUGMENTATION, batch_size=8, seed=0, workers=0))
    assert rest == []
    assert len(images) == 8
    assert len({tuple(image.flatten().tolist()) for image in images}) == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_breaks_while_training_is_told_in_one_sentence(tmp_path: Path, workers: int) -> None:
    dataset = Folder(folder_tree(tmp_path, {"train": 2}), ("road", "roof", "tree"))
    broken = tmp_path / "images/train/train1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    sentence = rf"^{broken} cannot be read, it is truncated or no image: [^\n]*$"
    for loader in (
        training_loader(dataset, AUGMENTATION, batch_size=2, seed=0, workers=workers),
        EvaluationLoader(EvaluationSamples.of(dataset), 2, workers),
    ):
        with reading(loader), pytest.raises(UserError, match=sentence):
            list(loader)


def test_the_processes_end_with_the_reading() -> None:
    others = set(multiprocessing.active_children())
    loader = training_loader(SyntheticAerial(count=4, size=(40, 40)), AUGMENTATION, batch_size=2, seed=0, workers=2)
    with reading(loader):
        next(iter(loader))
        assert len(set(multiprocessing.active_children()) - others) == 2
    assert set(multiprocessing.active_children()) <= others
    assert len(list(loader)) == 2  # others are started
    with reading(loader):
        pass


@pytest.mark.slow
def test_a_program_ends_that_left_them_running() -> None:
    """They heed no SIGTERM, by which multiprocessing would end them, and wait for it."""
    script = """
from segdistill.data import Augmentation, training_loader
from segdistill.datasets import SyntheticAerial
loader = training_loader(SyntheticAerial(count=4, size=(40, 40)), Augmentation((24, 32)), 2, seed=0, workers=1)
batches = iter(loader)
next(batches)
"""
    found = subprocess.run([sys.executable, "-c", script], timeout=60, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")


def test_what_is_attached_is_of_the_view_that_is_shown() -> None:
    """Epoch 5 of two views shows view 1 again, and what was kept of view 1 goes with it; so with every image."""
    dataset = SyntheticAerial(count=3, size=(40, 40))
    asked: list[tuple[int, int]] = []

    def attach(view: int, index: int) -> dict[str, Tensor]:
        asked.append((view, index))
        return {"of": torch.tensor([view, index])}

    samples = TrainingSamples(dataset, AUGMENTATION, seed=4, views=2, attach=attach)
    for epoch in range(6):
        for index in range(3):
            image, _, attached = samples[epoch, index]
            assert attached["of"].tolist() == [epoch % 2, index]
            assert image.equal(samples[epoch % 2, index][0])
    assert {view for view, _ in asked} == {0, 1}


def test_labels_beyond_a_byte_stay_as_they_are() -> None:
    scenes = SyntheticAerial(count=2, size=(40, 40))
    scenes.ignore_index = 1000
    loader = training_loader(scenes, AUGMENTATION, batch_size=2, seed=0, workers=0)
    assert next(iter(loader))[1].dtype == torch.int64


@pytest.mark.slow
def test_only_our_own_processes_end_with_python(tmp_path: Path) -> None:
    """A daemon of the program that we run in outlives our clearing up; the loader's processes do not."""
    program = """
import multiprocessing, time
from segdistill.data import loading
from segdistill.data.augmentation import Augmentation
from segdistill.datasets import SyntheticAerial

theirs = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
theirs.start()
loader = loading.training_loader(SyntheticAerial(count=4, size=(40, 40)), Augmentation((24, 32)), 2, seed=0, workers=1)
next(iter(loader))
[worker] = loader._iterator._workers
loading._end_data_loading()
worker.join(20)
print(worker.is_alive(), theirs.is_alive())
theirs.kill()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "True"]
