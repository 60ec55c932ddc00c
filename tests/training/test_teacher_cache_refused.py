"""A teacher cache that belongs to another run, or is damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import UserError
from segdistill.data.augmentation import Augmentation
from segdistill.datasets import SyntheticAerial
from segdistill.methods import KD
from segdistill.recipe.teachers import GivenTeacher
from segdistill.training.cache_key import describe
from tests.training.filling import Filling, agree, all_but_the_teacher
from tests.training.runs import TEACHER, contents, distill_tiny, train_tiny

#: All that a cache belongs to but the teacher.
SAME: dict[str, Any] = {
    "dataset": SyntheticAerial("train", 1, (32, 32)),
    "augmentation": Augmentation(None),
    "seed": 0,
    "multiple": 1,
    "precision": "fp32",
}


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
    specs = ("smp:PSPNet:resnet18?output_stride=8", "smp:PSPNet:resnet18?output_stride=16")
    weights = teacher / "model.safetensors"
    hashes = {describe(teachers=[GivenTeacher(spec, weights=weights)], **SAME)["teacher"] for spec in specs}
    assert len(hashes) == 2


def test_what_a_teacher_is_and_not_where_it_lies(tmp_path: Path) -> None:
    """The options that follow a file or a folder belong to it."""

    def hash_of(teacher: str) -> str:
        found: str = describe(teachers=[GivenTeacher(teacher)], **SAME)["teacher"]
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


def test_cache_needs_views(tmp_path: Path, teacher: Path) -> None:
    with pytest.raises(UserError, match="teacher_cache needs views"):
        distill_tiny(tmp_path / "run", teacher, teacher_cache=tmp_path / "cache")
