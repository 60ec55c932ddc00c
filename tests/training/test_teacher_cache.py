"""What is kept of the teacher is what it would say, whatever was killed, changed or full in between."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric
from PIL import Image
from rich.console import Console

from segdistill import Distiller, Network, RunFolder, UserError, records
from segdistill.data.augmentation import Augmentation
from segdistill.data.loading import TrainingSamples
from segdistill.datasets import SyntheticAerial
from segdistill.methods import KD, METHODS, Method
from segdistill.networks.features import Features
from segdistill.recipe.teachers import GivenTeacher
from segdistill.training import loading
from segdistill.training.cache_key import describe
from segdistill.training.step import Kept
from segdistill.training.strategies import launch
from segdistill.training.teacher_cache import KnownTeacher, TeacherCache
from segdistill.training.teacher_outputs import teacher_output_names
from segdistill.training.teacher_source import TeacherSource
from tests.tiny import tiny_network
from tests.training.runs import TEACHER, contents, distill_tiny, fingerprint, train_tiny
from tests.training.test_processes import TRAIN, start, write_recipe
from tests.training.test_resume import Killed, history_without_times, stop_in

QUIET = Console(quiet=True)
SEED = 3
#: Not square, so that a quarter turn for the wrong view would not even fit.
AUGMENTATION: dict[str, Any] = {
    "crop": (32, 40),
    "scale": (0.8, 1.3),
    "vertical_flip": True,
    "quarter_turns": True,
    "jitter": 0.4,
}


class WholeViews(Method):
    """A method of somebody else's that does not say what it needs."""

    def forward(self, *, student: Features, teacher: Features, labels: Any, valid: Any) -> dict[str, torch.Tensor]:
        return {"stages": student.stages[0].mean() - teacher.stages[0].mean() * teacher.embedding.mean()}


class Filling:
    """All that goes into a cache of tiny networks and scenes."""

    def __init__(
        self,
        folder: Path,
        methods: Sequence[Method],
        *,
        images: int = 3,
        views: int = 2,
        precision: str = "fp32",
        factor: float = 1.0,
    ) -> None:
        self.images, self.views = images, views
        self.scenes = SyntheticAerial("train", images, (48, 64))
        self.augmentation = Augmentation(**AUGMENTATION)
        self.teacher = tiny_network(width=8, stride=8, classes=6)
        with torch.no_grad():
            for parameter in self.teacher.model.parameters():
                parameter.mul_(2.5)  # else a network without training says nearly the same of every image
            for parameter in self.teacher.model.classifier.parameters():
                parameter.mul_(factor)
        self.distiller = Distiller(self.teacher, tiny_network(width=4, stride=16, classes=6), methods)
        self.fabric: Fabric = launch("cpu", precision)
        self.cache = TeacherCache(folder, {"precision": precision}, images, views)
        self.names = teacher_output_names(self.distiller)

    def fill(self, *, batch_size: int = 2, console: Console = QUIET, progress: bool = False) -> TeacherCache:
        self.cache.want(self.names)
        self.cache.fill(
            self.distiller,
            TrainingSamples(self.scenes, self.augmentation, SEED, self.views),
            batch_size=batch_size,
            workers=0,
            fabric=self.fabric,
            console=console,
            progress=progress,
        )
        assert self.cache.want(self.names) == []
        return self.cache

    def shown(self, view: int, image: int) -> torch.Tensor:
        """The very pixels that training will show."""
        return self.augmentation(*self.scenes[image], key=(SEED, view, image))[0][None]

    def live(self, view: int, image: int) -> dict[str, torch.Tensor]:
        with self.fabric.autocast():
            teacher_outputs = self.distiller.teacher_outputs(self.shown(view, image))
        return {name: value[0] for name, value in teacher_outputs.items()}

    def all_keys(self) -> list[tuple[int, int]]:
        return [(view, image) for view in range(self.views) for image in range(self.images)]


def agree(kept: torch.Tensor, live: torch.Tensor, bits: int) -> bool:
    """Within half a unit in the last of ``bits`` binary places, and what the order of sums may change in float32."""
    largest = float(live.float().abs().max())
    within = live.float().abs() * 2.0**-bits + 1e-5 * largest + 2.0**-25
    return kept.shape == live.shape and bool(((kept.float() - live.float()).abs() <= within).all())


def numbers_in(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Every record of a cache of float16 as numbers."""
    return {path.name: np.fromfile(path, np.float16) for path in sorted(folder.glob("*.bin"))}


def not_to_be_loaded() -> Network:
    raise AssertionError("the teacher was loaded")


def same_records(ours: Path, theirs: Path) -> bool:
    one, two = numbers_in(ours), numbers_in(theirs)
    return one.keys() == two.keys() and all(np.allclose(one[name], two[name], rtol=2e-3, atol=1e-5) for name in one)


# What is kept


@pytest.mark.parametrize("kind", [*METHODS.values(), WholeViews])
def test_kept_is_what_the_teacher_says_of_this_very_view(tmp_path: Path, kind: type[Method]) -> None:
    """Crop, scale, flips, turns and colours included; a flipped record would not do."""
    filling = Filling(tmp_path / "cache", [kind()], images=4)
    cache = filling.fill()
    looks = [filling.augmentation.view((48, 64), (SEED, *key)) for key in filling.all_keys()]
    assert {look.flip for look in looks} == {look.vertical_flip for look in looks} == {True, False}
    assert len({look.turns for look in looks}) > 2
    for view, image in filling.all_keys():
        live = filling.live(view, image)
        kept = cache.read(view, image)
        assert kept.keys() == live.keys() == set(filling.names)
        for name, value in kept.items():
            assert value.dtype == torch.float16
            assert agree(value, live[name], 11), name
            assert not agree(value, filling.live(1 - view, image)[name], 8), f"{name} is the same in both views"


@pytest.mark.parametrize("name", METHODS)
def test_bfloat16_is_kept_as_it_is(tmp_path: Path, name: str) -> None:
    filling = Filling(tmp_path / "cache", [METHODS[name]()], precision="bf16")
    cache = filling.fill()
    for key in filling.all_keys():
        live = filling.live(*key)
        for target, value in cache.read(*key).items():
            half = torch.bfloat16 if live[target].dtype == torch.bfloat16 else torch.float16
            assert value.dtype == half, target
            # A convolution over a batch of another size may round its results to the next number.
            assert agree(value, live[target], 6), target


@pytest.mark.parametrize("name", METHODS)
def test_step_from_kept_targets_is_the_live_step(tmp_path: Path, name: str) -> None:
    filling = Filling(tmp_path / "cache", [METHODS[name]()])
    cache = filling.fill()
    batch = [(0, 0), (0, 2)]
    images = torch.cat([filling.shown(*key) for key in batch])
    labels = torch.randint(0, 6, (2, 32, 40), generator=torch.Generator().manual_seed(0))
    teacher_outputs = torch.utils.data.default_collate([cache.read(*key) for key in batch])
    filling.distiller.prepare([images])
    # What a method draws and remembers moves on with every step: both begin from the same.
    before = deepcopy(filling.distiller.state_dict())
    live = filling.distiller(images, labels)
    source = TeacherSource(not_to_be_loaded, tmp_path / "cache")
    learner = Distiller(source, filling.distiller.student, METHODS[name]())
    learner.load_state_dict(before)
    cached = learner(images, labels, Kept(teacher_outputs, torch.device("cpu")).teacher_outputs)
    with pytest.raises(UserError, match="the teacher is not loaded: pass teacher_outputs with every batch"):
        learner(images, labels)
    assert cached.terms.keys() == live.terms.keys()
    for term, value in cached.terms.items():
        assert value.item() == pytest.approx(live.terms[term].item(), rel=2e-3), term


def test_half_precision_and_nothing_else_is_stored(tmp_path: Path) -> None:
    """2 bytes a number; the embedding that three methods share is there once, pooled."""
    filling = Filling(tmp_path / "cache", [METHODS["ka"](), METHODS["drd"](), METHODS["kd"](), METHODS["cwd"]()])
    filling.fill()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "cache").glob("*.bin")}
    numbers = {"embedding.pooled": 16 * 4 * 5, "logits": 6 * 4 * 5}
    expected = {f"{name}.view{view}.bin": 3 * 2 * count for name, count in numbers.items() for view in (0, 1)}
    assert sizes == expected
    assert isinstance(filling.cache._file("logits", 0).read(0).base.base, np.memmap)


def test_what_is_remembered_of_the_teacher(tmp_path: Path) -> None:
    assert TeacherCache.known_teacher(tmp_path / "cache") is None
    filling = Filling(tmp_path / "cache", [KD()])
    filling.fill()
    assert TeacherCache.known_teacher(tmp_path / "cache") == KnownTeacher(
        filling.teacher.info, filling.teacher.multiple
    )
    data = {"dataset": "camvid", "crop": [32, 32]}
    assert filling.cache.teacher_miou(data) is None
    filling.cache.keep_teacher_miou(data, 41.5)
    again = TeacherCache(tmp_path / "cache", {"precision": "fp32"}, 3, 2)
    assert again.teacher_miou(data) == 41.5
    assert again.teacher_miou(data | {"dataset": "voc"}) is None


def test_travels_to_another_process(tmp_path: Path) -> None:
    cache = Filling(tmp_path / "cache", [KD()]).fill()
    here = cache.read(1, 2)["logits"]
    assert torch.equal(ForkingPickler.loads(ForkingPickler.dumps(cache)).read(1, 2)["logits"], here)


def test_says_its_size_and_shows_a_bar(tmp_path: Path) -> None:
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    filling = Filling(tmp_path / "cache", [KD()])
    filling.fill(console=terminal, progress=True)
    text = terminal.file.getvalue()  # type: ignore[attr-defined]
    # 3 images x 2 views x (6 classes x 4 x 5 numbers of 2 bytes, and a flag)
    assert "3 images x 2 views of logits take 1.45 kB" in text
    assert text.index("1.45 kB") < text.index("100%")
    assert "filling the teacher cache" in text


# Whole runs


def all_but_the_teacher(monkeypatch: pytest.MonkeyPatch, teacher: Path) -> None:
    """From now on nobody may load the teacher."""
    load = loading.load_trained

    def refusing(spec: str, *arguments: Any, **options: Any) -> Network:
        assert spec != str(teacher), "the teacher was loaded"
        return load(spec, *arguments, **options)

    monkeypatch.setattr(loading, "load_trained", refusing)


@pytest.mark.parametrize("method", ["kd", "ka", "brd"])
def test_filled_once(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The second run loads no teacher and ends where the first does; the live run goes the same way."""
    options: dict[str, Any] = {"method": method, "views": 2, "epochs": 2}
    first = distill_tiny(tmp_path / "first", teacher, teacher_cache=tmp_path / "cache", **options)
    live = distill_tiny(tmp_path / "live", teacher, **options)
    kept = contents(tmp_path / "cache")
    all_but_the_teacher(monkeypatch, teacher)
    second = distill_tiny(tmp_path / "second", teacher, teacher_cache=tmp_path / "cache", **options)
    assert fingerprint(first) == fingerprint(second)
    assert contents(tmp_path / "cache") == kept
    # Later epochs drift apart: training makes much of little differences.
    ours, theirs = (next(row for row in run.read_history() if row["epoch"] == "1") for run in (second, live))
    assert ours.keys() == theirs.keys()
    for name in (column for column in theirs if column.startswith("loss/")):
        assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=2e-2), name
    metrics = [run.read_metrics() for run in (first, second, live)]
    assert len({found["teacher_miou"] for found in metrics if found is not None}) == 1


def test_views_come_in_turn(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    read = TeacherCache.read

    def noting(self: TeacherCache, view: int, image: int) -> dict[str, torch.Tensor]:
        seen.append((view, image))
        return read(self, view, image)

    monkeypatch.setattr(TeacherCache, "read", noting)
    distill_tiny(tmp_path / "run", teacher, views=2, teacher_cache=tmp_path / "cache", epochs=3)
    epochs = [seen[at : at + 4] for at in range(0, len(seen), 4)]  # 5 images make 2 batches of 2
    assert [{view for view, _ in epoch} for epoch in epochs] == [{0}, {1}, {0}]
    assert all(len({image for _, image in epoch}) == 4 for epoch in epochs)


def test_targets_belong_to_their_images(tmp_path: Path) -> None:
    """Epoch 2 shows the pixels of epoch 0 beside what was said of them."""
    filling = Filling(tmp_path / "cache", [KD()])
    samples = TrainingSamples(filling.scenes, filling.augmentation, SEED, 2, filling.fill().read)
    for epoch in range(4):
        image, _, teacher_outputs = samples[epoch, 1]
        assert torch.equal(image[None], filling.shown(epoch % 2, 1))
        assert agree(teacher_outputs["logits"], filling.live(epoch % 2, 1)["logits"], 11)


def test_another_method_adds_what_is_missing(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"views": 2, "teacher_cache": tmp_path / "cache"}
    distill_tiny(tmp_path / "kd", teacher, method="kd", **options)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "cache").glob("logits.*")}
    assert len(before) == 4
    distill_tiny(tmp_path / "ka", teacher, method="ka", **options)
    distill_tiny(tmp_path / "brd", teacher, method="brd", **options)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    names = {path.name.removesuffix(".view0.bin") for path in (tmp_path / "cache").glob("*.view0.bin")}
    assert names == {"logits", "embedding.pooled", *(f"boundary.pool.{stage}" for stage in range(4))}
    all_but_the_teacher(monkeypatch, teacher)
    distill_tiny(tmp_path / "all", teacher, method=["kd", "ka", "brd", "cwd"], **options)


def test_a_run_that_grows_the_cache_leaves_one_that_reads_it_alone(tmp_path: Path) -> None:
    reading = Filling(tmp_path / "cache", [KD()])
    reading.fill()
    before = reading.cache.read(0, 1)["logits"]
    growing = Filling(tmp_path / "cache", [METHODS["brd"]()])
    growing.fill()
    reading.cache.keep_teacher_miou({}, 30.0)  # by the run whose manifest is the older one
    assert torch.equal(reading.cache.read(0, 1)["logits"], before)
    assert Filling(tmp_path / "cache", [METHODS["brd"]()]).cache.want(growing.names) == []


def test_loading_processes_change_nothing(tmp_path: Path, teacher: Path) -> None:
    runs = [
        distill_tiny(
            tmp_path / f"run{workers}",
            teacher,
            method=["ka", "cwd"],
            views=2,
            teacher_cache=tmp_path / f"cache{workers}",
            workers=workers,
            epochs=2,
        )
        for workers in (0, 1)
    ]
    assert fingerprint(runs[0]) == fingerprint(runs[1])
    assert contents(tmp_path / "cache0") == contents(tmp_path / "cache1")


@pytest.mark.parametrize("batch", [0, 1])
def test_cached_run_goes_on(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    options: dict[str, Any] = {"method": ["ka", "brd"], "views": 2, "teacher_cache": tmp_path / "cache"}
    whole = distill_tiny(tmp_path / "whole", teacher, **options)
    all_but_the_teacher(monkeypatch, teacher)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2, batch=batch)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "broken", teacher, **options)
    resumed = distill_tiny(tmp_path / "broken", teacher, resume=True, **options)
    assert fingerprint(resumed) == fingerprint(whole)
    assert history_without_times(resumed) == history_without_times(whole)


@pytest.mark.slow
def test_two_processes_fill_it_together(tmp_path: Path, teacher: Path) -> None:
    recipe = write_recipe(tmp_path / "recipe.yaml", teacher, method="brd", views=2, train=TRAIN | {"epochs": 1})
    both = start(recipe, tmp_path / "two", "--devices", "2", "--teacher_cache", str(tmp_path / "cache"))
    output, errors = both.communicate(timeout=400)
    assert both.returncode == 0, errors
    assert output.count("9 images x 2 views") == 1
    one = distill_tiny(
        tmp_path / "one",
        teacher,
        method="brd",
        views=2,
        teacher_cache=tmp_path / "alone",
        data=RunFolder(tmp_path / "two").read_config()["data"],
        batch_size=4,
        epochs=1,
    )
    assert one.read_metrics() is not None
    assert same_records(tmp_path / "cache", tmp_path / "alone")
    assert all(set(path.read_bytes()) == {1} for path in (tmp_path / "cache").glob("*.done"))
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("cache", "alone")]
    assert manifests[0] == manifests[1]


# Killed


def fill_slowly(folder: Path) -> None:
    """What each process does until it is killed."""
    write = TeacherCache._write

    def slow(self: TeacherCache, *arguments: Any) -> None:
        time.sleep(0.004)
        write(self, *arguments)

    TeacherCache._write = slow  # type: ignore[method-assign]
    torch.set_num_threads(1)
    Filling(folder, [METHODS["brd"]()], images=16).fill(batch_size=1)


def count_done(folder: Path) -> int:
    return sum(path.read_bytes().count(1) for path in folder.glob("*.done"))


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, again and again; meanwhile no other run may fill it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    chance, kills, codes = random.Random(0), 0, []
    while not codes or codes[-1] != 0:
        before = count_done(tmp_path / "cache")
        process = context.Process(target=fill_slowly, args=(tmp_path / "cache",))
        process.start()
        deadline = time.monotonic() + 60
        while process.is_alive() and count_done(tmp_path / "cache") == before and time.monotonic() < deadline:
            time.sleep(0.002)
        if kills == 1:
            other = Filling(tmp_path / "cache", [METHODS["brd"]()], images=16)
            with pytest.raises(UserError, match=r"another run is filling the teacher cache .*; start this one when"):
                other.fill()
        if kills < 4:
            time.sleep(chance.uniform(0, 0.15))
            process.kill()
        process.join(timeout=60)
        codes.append(process.exitcode)
        kills += 1
        assert codes[-1] in (0, -signal.SIGKILL)
    assert codes.count(-signal.SIGKILL) >= 2
    Filling(tmp_path / "whole", [METHODS["brd"]()], images=16).fill()
    assert same_records(tmp_path / "cache", tmp_path / "whole")
    assert all(set(path.read_bytes()) == {1} for path in (tmp_path / "cache").glob("*.done"))


def test_killed_at_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each manifest that comes into its place, each space that is taken, each record that is made safe."""
    whole = tmp_path / "whole"
    Filling(whole, [METHODS["ka"](), KD()], images=2).fill()
    count = 0

    def dying(call: Callable[..., Any], at: int) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == at:
                (tmp_path / f"cache{at}" / ".manifest.json-half.part").write_text("half of one")
                raise Killed
            return call(*arguments)

        return counted

    for at in range(1, 100):
        folder, count = tmp_path / f"cache{at}", 0
        with monkeypatch.context() as patch:
            for name in ("replace", "posix_fallocate", "fdatasync"):
                patch.setattr(os, name, dying(getattr(os, name), at))
            try:
                Filling(folder, [METHODS["ka"](), KD()], images=2).fill()
            except Killed:
                pass
            else:
                break
        Filling(folder, [METHODS["ka"](), KD()], images=2).fill()
        assert same_records(folder, whole), at
    assert (
        at == 2 + 2 * 2 * 2 + 2 * 2 + 1
    )  # manifests; files of teacher_outputs and views, with flags; batches of teacher_outputs


# Refused


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Path:
    """A folder with a cache of what kd needs, and images to make it of."""
    folder = tmp_path_factory.mktemp("filled")
    chance = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind, top in (("images", 255), ("masks", 5)):
            (folder / "data" / kind / split).mkdir(parents=True)
            for number in range(3):
                shape = (32, 32, 3) if kind == "images" else (32, 32)
                pixels = chance.integers(0, top, shape, dtype=np.uint8, endpoint=True)
                Image.fromarray(pixels).save(folder / "data" / kind / split / f"{number}.png")
    run_from(folder, folder, teacher, epochs=1)
    return folder


def run_from(folder: Path, output: Path, teacher: Path, **changes: Any) -> None:
    data = {"dataset": "folder", "root": str(folder / "data"), "classes": list("abcdef"), "crop": [32, 32]}
    data |= {key: changes.pop(key) for key in ("crop", "jitter", "flip") if key in changes}
    options = {"views": 2, "epochs": 1, "teacher_cache": folder / "cache"} | changes
    distill_tiny(output / "run", teacher, data=data, **options)


@pytest.fixture
def copy(filled: Path, tmp_path: Path) -> Path:
    shutil.copytree(filled, tmp_path / "copy", ignore=shutil.ignore_patterns("run"))
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"crop": [32, 24]}, r"crop was \[32, 32\], now \[32, 24\]; padded was"),
        ({"jitter": 0.2}, r"jitter was 0\.0, now 0\.2; use another folder, or remove this one"),
        ({"flip": False}, r"flip was True, now False"),
        ({"seed": 1}, r"seed was 0, now 1"),
        ({"views": 3}, r"views was 2, now 3"),
        ({"precision": "bf16"}, r"precision was 'fp32', now 'bf16'"),
        ({"batch_size": 4}, r"images was 3, now 4"),
    ],
)
def test_made_for_another_run(
    filled: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], told: str
) -> None:
    # Machines without fast bf16 would take fp32 instead.
    monkeypatch.setattr("segdistill.training.run.choose_precision", lambda asked, device: asked)
    before = contents(filled / "cache")
    with pytest.raises(UserError, match=f"was made for something else: {told}"):
        run_from(filled, tmp_path, teacher, **changes)
    assert contents(filled / "cache") == before
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["weights", "normalisation", "other weights"])
def test_another_teacher(filled: Path, tmp_path: Path, teacher: Path, change: str) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    options = {}
    if change == "weights":
        other = train_tiny(tmp_path / "other", TEACHER, seed=1, epochs=1).path
        shutil.copy(other / "model.safetensors", tmp_path / "teacher")
    elif change == "normalisation":
        card = json.loads((tmp_path / "teacher" / "network.json").read_text())
        card |= {"mean": [0.5] * 3, "std": [0.2] * 3}
        (tmp_path / "teacher" / "network.json").write_text(json.dumps(card))
    else:
        other = train_tiny(tmp_path / "other", TEACHER, seed=1, epochs=1).path
        options = {"teacher_weights": str(other)}
    with pytest.raises(UserError, match=r"something else: teacher was '[0-9a-f]{16}', now '[0-9a-f]{16}'; use"):
        run_from(filled, tmp_path, tmp_path / "teacher", **options)


def test_the_same_teacher_elsewhere(copy: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders of cache, data and teacher may move; the mIoU and pictures beside the weights do not matter."""
    shutil.copytree(teacher, tmp_path / "teacher")
    (tmp_path / "teacher" / "metrics.json").write_text("{}")
    all_but_the_teacher(monkeypatch, tmp_path / "teacher")
    run_from(copy, tmp_path, tmp_path / "teacher")


def test_one_pixel(copy: Path, tmp_path: Path, teacher: Path) -> None:
    file = copy / "data" / "images" / "train" / "1.png"
    pixels = np.array(Image.open(file))
    pixels[31, 31, 2] ^= 1
    Image.fromarray(pixels).save(file)
    with pytest.raises(UserError, match=r"something else: data was '[0-9a-f]{16}', now"):
        run_from(copy, tmp_path, teacher)


def test_labels_do_not_matter(copy: Path, tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.full((32, 32), 3, np.uint8)).save(copy / "data" / "masks" / "train" / "1.png")
    all_but_the_teacher(monkeypatch, teacher)
    run_from(copy, tmp_path, teacher)


def test_hash_of_images_knows_their_shapes(teacher: Path) -> None:
    """The same bytes, cut into rows otherwise."""

    class Turned(SyntheticAerial):
        def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
            image, labels = super().__getitem__(index)
            return image.reshape(3, 64, 32), labels.reshape(64, 32)

    common: dict[str, Any] = {"teachers": [GivenTeacher(teacher)], "seed": 0, "precision": "fp32"}
    made = [
        describe(dataset=kind("train", 2, (32, 64)), augmentation=Augmentation(None), multiple=1, **common)
        for kind in (SyntheticAerial, SyntheticAerial, Turned)
    ]
    assert made[0] == made[1]
    assert made[0]["data"] != made[2]["data"]


def test_students_of_other_multiples_share_a_cache(teacher: Path) -> None:
    scenes = SyntheticAerial("train", 1, (32, 32))

    def made(crop: tuple[int, int], multiple: int) -> dict[str, Any]:
        return describe(
            teachers=[GivenTeacher(teacher)],
            dataset=scenes,
            augmentation=Augmentation(crop),
            seed=0,
            multiple=multiple,
            precision="fp32",
        )

    assert made((32, 64), 8) == made((32, 64), 32)
    assert made((32, 40), 8) != made((32, 40), 32)


def test_weights_that_are_not_there(filled: Path, tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match=r"teacher 'python:.*' is no run folder and has no teacher_weights"):
        run_from(filled, tmp_path, TEACHER)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot read the teacher's .*none\.pth: No such file"):
        run_from(filled, tmp_path, teacher, teacher_weights=str(tmp_path / "none.pth"))


def test_a_spec_with_weights(tmp_path: Path, teacher: Path) -> None:
    """The same file in a network that is built otherwise is another teacher."""
    common: dict[str, Any] = {
        "dataset": SyntheticAerial("train", 1, (32, 32)),
        "augmentation": Augmentation(None),
        "seed": 0,
        "multiple": 1,
        "precision": "fp32",
    }
    specs = ("smp:PSPNet:resnet18?output_stride=8", "smp:PSPNet:resnet18?output_stride=16")
    weights = teacher / "model.safetensors"
    hashes = {describe(teachers=[GivenTeacher(spec, weights=weights)], **common)["teacher"] for spec in specs}
    assert len(hashes) == 2


def test_what_a_teacher_is_and_not_where_it_lies(tmp_path: Path) -> None:
    """The options that follow a file or a folder belong to it."""
    common: dict[str, Any] = {
        "dataset": SyntheticAerial("train", 1, (32, 32)),
        "augmentation": Augmentation(None),
        "seed": 0,
        "multiple": 1,
        "precision": "fp32",
    }

    def hash_of(teacher: str) -> str:
        found: str = describe(teachers=[GivenTeacher(teacher)], **common)["teacher"]
        return found

    for folder, content in (("here", b"one"), ("there", b"one"), ("other", b"two")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.onnx").write_bytes(content)
        (tmp_path / folder / "model.safetensors").write_bytes(content)
    (tmp_path / "here/model.onnx").rename(tmp_path / "renamed.onnx")
    for first, same, other in (
        ("renamed.onnx", "there/model.onnx", "other/model.onnx"),
        ("here", "there", "other"),
    ):
        spec = f"smp:{tmp_path}/{first}" if same == "there" else f"{tmp_path}/{first}"
        assert hash_of(f"{tmp_path}/{first}") == hash_of(f"{tmp_path}/{same}") != hash_of(f"{tmp_path}/{other}")
        assert hash_of(f"{spec}?mean=null&std=null") != hash_of(spec)


@pytest.mark.parametrize("foreign", ["a file", "a folder", "the output"])
def test_no_cache(tmp_path: Path, teacher: Path, foreign: str) -> None:
    folder = tmp_path / "cache"
    if foreign == "a file":
        folder.write_text("notes")
    elif foreign == "a folder":
        folder.mkdir()
        (folder / "thesis.tex").write_text("notes")
    else:
        folder = teacher
    before = contents(tmp_path)
    with pytest.raises(
        UserError, match=r"is a file, expected a folder|no teacher cache and not an empty folder; choose"
    ):
        distill_tiny(tmp_path / "run", teacher, views=2, teacher_cache=folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '"cache"',
        "{}",
        '{"made_for": 3, "teacher_outputs": {}, "teacher": {}}',
        '{"made_for": {"format": 2}}',
        '{"made_for": {"format": 2, "views": 2}, "teacher_outputs": {}, "teacher": {"info": 3}}',
        "\x00\xff",
    ],
)
def test_damaged_manifest(copy: Path, tmp_path: Path, teacher: Path, text: str) -> None:
    (copy / "cache" / "manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json: .*; remove the teacher cache"):
        run_from(copy, tmp_path, teacher)


@pytest.mark.parametrize("target", [{}, {"dtype": "float16"}, {"dtype": "float99", "shape": [1]}, 5])
def test_damaged_target(copy: Path, tmp_path: Path, teacher: Path, target: Any) -> None:
    file = copy / "cache" / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"teacher_outputs": {"logits": target}}))
    with pytest.raises(UserError, match=r"cannot read .*manifest\.json: .*; remove the teacher cache"):
        run_from(copy, tmp_path, teacher)


def test_another_format(copy: Path, tmp_path: Path, teacher: Path) -> None:
    file = copy / "cache" / "manifest.json"
    file.write_text(json.dumps({"made_for": {"format": 0}}))
    with pytest.raises(UserError, match=r"manifest\.json has format 0, this segdistill reads format 2"):
        run_from(copy, tmp_path, teacher)


@pytest.mark.parametrize("name", ["logits.view0.bin", "logits.view1.done"])
@pytest.mark.parametrize("keep", [0, 2, None])
def test_truncated_file(copy: Path, tmp_path: Path, teacher: Path, name: str, keep: int | None) -> None:
    file = copy / "cache" / name
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=rf"{name} is missing or truncated; remove the teacher cache .*makes it anew"):
        run_from(copy, tmp_path, teacher)
    assert not (tmp_path / "run").exists()


def test_truncated_after_the_run_began(tmp_path: Path) -> None:
    cache = Filling(tmp_path / "cache", [KD()]).fill()
    (tmp_path / "cache" / "logits.view1.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"logits\.view1\.bin is missing or truncated"):
        cache.read(1, 0)


@pytest.mark.parametrize(
    ("factor", "told"),
    [
        (1e7, "the teacher's logits reaches .*e\\+0.*, and half precision holds"),
        (1e-9, "the teacher's logits reaches .*e-.*, and half precision holds"),
        (float("nan"), "the teacher's logits hold NaN or infinite values"),
    ],
)
def test_beyond_half_precision(tmp_path: Path, factor: float, told: str) -> None:
    """Too large, or too small to have any digits: refused before anything is written."""
    filling = Filling(tmp_path / "cache", [KD()], factor=factor)
    with pytest.raises(UserError, match=told):
        filling.fill()
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("factor", [1e7, 1e-9])
def test_bfloat16_holds_it(tmp_path: Path, factor: float) -> None:
    filling = Filling(tmp_path / "cache", [KD()], factor=factor, precision="bf16")
    assert agree(filling.fill().read(0, 0)["logits"], filling.live(0, 0)["logits"], 6)


# No space


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)


def large(folder: Path) -> Filling:
    """A cache of about 77 kB: 100 images x 1 view x (16 x 4 x 5 numbers of 2 bytes, and 6 x 4 x 5 of the logits)."""
    return Filling(folder, [METHODS["ka"](), KD()], images=100, views=1)


def test_refused_before_a_byte_is_written(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = r"needs 88\.20 kB and the disk has 65\.\d+ kB free, of which 1\.00 GB are left for the run; choose another"
    with pytest.raises(UserError, match=told):
        large(small_disk / "cache").fill()
    assert not (small_disk / "cache").exists()
    monkeypatch.setattr(records, "SPARE_BYTES", 0)
    enlarge(small_disk)
    large(small_disk / "cache").fill()


def test_space_that_is_gone_meanwhile(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More was free when it was asked: what was taken is given back, and the folder serves again."""
    monkeypatch.setattr(records, "SPARE_BYTES", -(10**6))
    with pytest.raises(
        UserError, match=r"cannot take 88\.20 kB on the disk \(No space left on device\); choose another folder"
    ):
        large(small_disk / "cache").fill()
    assert {path.name for path in (small_disk / "cache").iterdir()} == {"manifest.json"}
    assert TeacherCache.known_teacher(small_disk / "cache") is not None
    enlarge(small_disk)
    large(small_disk / "cache").fill()


def test_full_while_filling(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where space cannot be taken in advance: what is there is kept and filled on."""
    monkeypatch.setattr(records, "SPARE_BYTES", -(10**6))
    monkeypatch.delattr(os, "posix_fallocate")
    with pytest.raises(UserError, match="no space left on the disk; the records that it holds are kept"):
        large(small_disk / "cache").fill()
    done = count_done(small_disk / "cache")
    assert 0 < done < 200
    enlarge(small_disk)
    filling = large(small_disk / "cache")
    assert 0 < len(filling.cache.want(filling.names)) <= 200 - done
    lines = Console(file=io.StringIO(), width=200)
    filling.fill(console=lines)
    assert "views are missing" in lines.file.getvalue()  # type: ignore[attr-defined]
    large(tmp_path / "whole").fill()
    assert same_records(small_disk / "cache", tmp_path / "whole")


def test_files_may_not_grow(tmp_path: Path) -> None:
    """The limit on a file's size stands in for a full disk, as root or not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    filling = large(tmp_path / "cache")
    resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard))
    try:
        with pytest.raises(UserError, match=r"cannot take 88\.20 kB on the disk \(File too large\)"):
            filling.fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"manifest.json"}
    filling.fill()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    with pytest.raises(UserError, match=r"cannot make teacher cache .*notes/cache: Not a directory"):
        Filling(tmp_path / "notes" / "cache", [KD()]).fill()


def test_cache_needs_views(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match="teacher_cache needs views"):
        distill_tiny(tmp_path / "run", teacher, teacher_cache=tmp_path / "cache")
