"""A teacher that sees the student's crops at a multiple of their resolution."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from segdistill import Distiller, Network, UserError
from segdistill.data import Augmentation, TrainingSamples, training_loader
from segdistill.datasets.base import SegmentationDataset
from segdistill.methods import METHODS
from segdistill.networks.closer import reduced
from segdistill.networks.padding import pad_to_multiple
from segdistill.recipe.data import build_data
from segdistill.training.preparation import warn_of_enlarging
from tests.inspection.trees import HEIGHT, WIDTH, folder_data, sound_tree
from tests.tiny import tiny_network
from tests.training.runs import TEACHER, distill_tiny, fingerprint, train_tiny
from tests.training.test_resume import Killed, stop_in

EVERYTHING: dict[str, Any] = {
    "scale": (0.4, 2.5),
    "flip": True,
    "vertical_flip": True,
    "quarter_turns": True,
    "jitter": 0.3,
    "mix": {"cutmix": 0.3, "classmix": 0.3, "mixup": 0.3},
}


class Blocks(SegmentationDataset):
    """Images of 60 x 84 whose grey level, constant in blocks of 12 x 12, tells the label; it resizes if told to."""

    def __init__(self, resize: tuple[int, int] | None = None, bands: int = 3, floating: bool = False) -> None:
        super().__init__(classes=list("abcde"), ids=[str(number) for number in range(4)], in_channels=bands)
        self.resize = resize
        self.floating = floating

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(5, (5, 7), generator=torch.Generator().manual_seed(index))
        rows, columns = (60, 84) if self.resize is None else self.resize
        labels = labels.repeat_interleave(rows // 5, 0).repeat_interleave(columns // 7, 1)
        image = (50 * labels).to(torch.uint8).expand(self.in_channels, -1, -1)
        return (image.float() if self.floating else image), labels


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(
    ("own", "read"),
    [
        (Blocks((30, 42)), lambda factor: Blocks((30 * factor, 42 * factor))),
        (Blocks(), lambda factor: Blocks()),
        (Blocks((30, 42), 5, True), lambda factor: Blocks((30 * factor, 42 * factor), 5, True)),
    ],
    ids=["resized", "own size", "five float bands"],
)
def test_what_the_teacher_sees_reduced_is_what_the_student_alone_sees(factor: int, own: Any, read: Any) -> None:
    """Same crops, flips, turns, padding, partners and boxes; colours differ only by how edges are averaged."""
    augmentation = Augmentation((23, 32), **EVERYTHING)
    alone = TrainingSamples(own, augmentation, seed=3)
    closer = TrainingSamples(read(factor), augmentation, seed=3, teacher_scale=factor)
    off = []
    for view in range(4):
        for index in range(4):
            image, labels = alone[view, index]
            large, same = closer[view, index]
            assert large.shape == (own.in_channels, 23 * factor, 32 * factor)
            assert large.dtype == image.dtype
            assert same.shape == labels.shape
            # Nearest neighbours may fall on the other side of a block's edge.
            assert (same == labels).float().mean() > 0.93
            off.append((reduced(large, factor).float() - image.float()).abs().mean())
    assert max(off) < 9
    assert sum(off) / len(off) < 4


def test_with_kept_outputs_the_picture_is_the_same_and_small() -> None:
    dataset, augmentation = Blocks((60, 84)), Augmentation((24, 32), **EVERYTHING)
    large = TrainingSamples(dataset, augmentation, seed=1, views=2, teacher_scale=2)
    small = TrainingSamples(dataset, augmentation, seed=1, views=2, attach=lambda *_: {}, teacher_scale=2)
    for index in range(4):
        image, labels, _ = small[1, index]
        assert image.shape == (3, 24, 32)
        assert image.equal(reduced(large[1, index][0], 2))
        assert labels.equal(large[1, index][1])


def test_batches_do_not_depend_on_the_number_of_workers() -> None:
    augmentation = Augmentation((24, 32), **EVERYTHING)
    batches = [
        list(training_loader(Blocks((60, 84)), augmentation, 2, seed=1, workers=workers, teacher_scale=2))
        for workers in (0, 1)
    ]
    for (images, labels), (same, others) in zip(*batches, strict=True):
        assert images.shape == (2, 3, 48, 64)
        assert images.equal(same)
        assert labels.equal(others)


@pytest.mark.parametrize("size", [(32, 48), (23, 41)])
def test_the_distiller_reduces_for_the_student_and_pads_both_alike(size: tuple[int, int]) -> None:
    teacher, student = tiny_network(width=8, stride=8, classes=6), tiny_network(width=4, stride=16, classes=6)
    distiller = Distiller(teacher, student, "kd", teacher_scale=2).eval()
    images = torch.randint(256, (2, 3, 2 * size[0], 2 * size[1]), dtype=torch.uint8)
    labels = torch.randint(6, (2, *size))
    out = distiller(images, labels)
    plain = Distiller(teacher, student, "kd").eval()
    outputs = {"logits": teacher.features(pad_to_multiple(images, 2 * distiller.multiple)).logits}
    expected = plain(reduced(images, 2), labels, outputs)
    for name, value in expected.losses.items():
        assert torch.allclose(out.losses[name], value)
    kept = distiller.teacher_outputs(images)
    assert kept["logits"].equal(outputs["logits"])
    assert torch.allclose(distiller(reduced(images, 2), labels, kept).loss, out.loss)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("factor", [2, 3])
def test_every_method_takes_a_teacher_that_looks_closer(method: str, factor: int) -> None:
    torch.manual_seed(0)
    teacher, student = tiny_network(width=8, stride=8, classes=6), tiny_network(width=4, stride=16, classes=6)
    chosen: Any = {"rdd": {"method": "kd"}} if method == "rdd" else method
    distiller = Distiller(teacher, student, chosen, teacher_scale=factor)
    images = torch.randint(256, (2, 3, 64 * factor, 96 * factor), dtype=torch.uint8)
    labels = torch.randint(6, (2, 64, 96))
    if distiller.has_pre_stage:
        distiller.prepare([images])
    out = distiller(images, labels)
    out.loss.backward()
    assert torch.isfinite(out.loss)
    assert len(out.losses) > 1


# Whole runs.


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Images of 48 x 64, of which the student sees half the height and width."""
    root = sound_tree(tmp_path_factory.mktemp("halves"))
    return folder_data(root, resize=[HEIGHT // 2, WIDTH // 2], crop=[16, 24], scale=[0.8, 1.2])


@pytest.fixture(scope="module")
def theirs(halves: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher trained on the images at their own size."""
    data = {key: value for key, value in halves.items() if key != "resize"}
    return train_tiny(tmp_path_factory.mktemp("theirs") / "run", TEACHER, data=data, epochs=1).path


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Sizes of the images on which the teacher is run or scored."""
    sizes: list[tuple[int, int]] = []
    forward = Network.forward

    def noting(self: Network, images: Tensor) -> Tensor:
        # The teacher, once it is built: building tries the network.
        if hasattr(self, "info") and self.info.stages[0].channels == 8 and not self.training:
            sizes.append((images.shape[-2], images.shape[-1]))
        return forward(self, images)

    monkeypatch.setattr(Network, "forward", noting)
    return sizes


def test_live_and_cached_runs_agree_and_the_cache_knows_the_scale(
    tmp_path: Path, halves: dict[str, Any], theirs: Path, seen: list[tuple[int, int]]
) -> None:
    options: dict[str, Any] = {"data": halves, "method": "kd", "views": 2, "teacher_scale": 2}
    live = distill_tiny(tmp_path / "live", theirs, **options)
    # Crops, validation at the teacher's own scale, and the report's pictures as the student sees them.
    assert set(seen) == {(32, 48), (HEIGHT, WIDTH), (HEIGHT // 2, WIDTH // 2)}
    assert seen.count((32, 48)) == 6  # steps of the run: none more of the validation
    kept = distill_tiny(tmp_path / "kept", theirs, teacher_cache=tmp_path / "cache", **options)
    for ours, others in zip(live.read_history(), kept.read_history(), strict=True):
        for name in ("loss/task", "loss/kd"):
            assert float(ours[name]) == pytest.approx(float(others[name]), rel=1e-2)
    assert live.read_metrics()["teacher_miou"] == kept.read_metrics()["teacher_miou"]
    seen.clear()
    again = distill_tiny(tmp_path / "again", theirs, teacher_cache=tmp_path / "cache", **options)
    assert fingerprint(again) == fingerprint(kept)
    assert seen == []  # nothing is missing: no teacher
    with pytest.raises(UserError, match=r"teacher_scale"):
        distill_tiny(tmp_path / "other", theirs, teacher_cache=tmp_path / "cache", **(options | {"teacher_scale": 1}))


def test_a_stopped_run_goes_on_as_it_would_have(
    tmp_path: Path, halves: dict[str, Any], theirs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"data": halves, "teacher_scale": 2, "method": ["ka", "brd"]}
    whole = distill_tiny(tmp_path / "whole", theirs, **options)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=1, batch=1)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "broken", theirs, **options)
    assert fingerprint(distill_tiny(tmp_path / "broken", theirs, resume=True, **options)) == fingerprint(whole)
    plain = distill_tiny(tmp_path / "plain", theirs, **(options | {"teacher_scale": 1}))
    assert fingerprint(plain) != fingerprint(whole)


def test_decoded_images_of_both_sizes_lie_side_by_side(tmp_path: Path, halves: dict[str, Any], theirs: Path) -> None:
    """The student alone, in a comparison, reads its own from the same folder."""
    data = halves | {"decoded_cache": str(tmp_path / "decoded")}
    kept = distill_tiny(tmp_path / "run", theirs, data=data, teacher_scale=2)
    train_tiny(tmp_path / "alone", data=data, epochs=1)
    assert {"train.bin", "train-x2.bin", "val-scored.bin"} <= {path.name for path in (tmp_path / "decoded").iterdir()}
    assert fingerprint(kept) == fingerprint(distill_tiny(tmp_path / "plain", theirs, data=halves, teacher_scale=2))


@pytest.mark.parametrize(
    ("changes", "factor", "warned"),
    [
        ({}, 2, None),
        ({}, 3, "72 x 96 pixels, but the first one has 48 x 64.*lower data.resize"),
        ({"resize": None}, 2, "96 x 128 pixels, but the first one has 48 x 64.*lower data.scale"),
        ({"resize": None, "scale": [0.25, 0.5]}, 2, None),
        ({"resize": None}, 1, None),
    ],
)
def test_enlarged_pictures_are_warned_of(
    halves: dict[str, Any], changes: dict[str, Any], factor: int, warned: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_of_enlarging(build_data(halves | changes).looked_closer_at(factor), Console(width=500))
    printed = capsys.readouterr().out
    assert re.search(warned, printed) if warned else printed == ""


@pytest.mark.parametrize("factor", [0, 5, -1])
def test_a_scale_out_of_range_is_refused(factor: int, tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match=f"teacher_scale is {factor}, expected 1, 2, 3 or 4"):
        distill_tiny(tmp_path / "run", teacher, teacher_scale=factor)
    if factor < 1:
        with pytest.raises(UserError, match=f"teacher_scale is {factor}, expected a whole number of at least 1"):
            Distiller(tiny_network(), tiny_network(seed=1), "kd", teacher_scale=factor)
