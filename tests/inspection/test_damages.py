"""What can be wrong with files: found by the check, all of it at once, and told of by a training."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import segdistill
from segdistill import UserError
from segdistill.inspection.check import check_data
from segdistill.recipe.train_config import TrainConfig
from tests.inspection.trees import HEIGHT, WIDTH, areas, folder_data, picture, save, sound_tree

TINY = "python:tests.tiny:build_tiny"
ONE_EPOCH = TrainConfig(epochs=1, batch_size=2, precision="fp32", workers=0)
PALETTE = ["#ff0000", "#00ff00", "#0000ff"]
COLORS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], dtype=np.uint8)

RUNS = ""
"""Stands for: the training goes through, after one warning where the check finds more than a note."""


@dataclass
class Damage:
    """Something done to a sound data set.

    Attributes:
        do: the damage, given the root.
        kind: the finding that tells of it.
        named: what one of its files' names holds.
        sentence: what the sentence holds with which a training ends; RUNS where it trains.
        severity: of the finding.
        data: keywords of the data set.
        follows: kinds of errors that follow from this one.
    """

    do: Callable[[Path], object]
    kind: str
    named: str = ""
    sentence: str = RUNS
    severity: str = "error"
    data: dict[str, Any] = field(default_factory=dict)
    follows: frozenset[str] = frozenset()


def image(root: Path, name: str = "train1.png") -> Path:
    return root / "images/train" / name


def mask(root: Path, name: str = "train1.png") -> Path:
    return root / "masks/train" / name


def every_mask(root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for path in root.glob("masks/*/*"):
        save(change(np.asarray(Image.open(path))), path)


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def replace(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def png_header(width: int, height: int) -> bytes:
    """A PNG of so many grey pixels that holds only the first few of them."""
    chunks = b"\x89PNG\r\n\x1a\n"
    for kind, body in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
    ):
        chunks += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return chunks


def wrong_checksum(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 20] ^= 255
    path.write_bytes(bytes(data))


def in_colors(root: Path) -> None:
    every_mask(root, lambda labels: COLORS[labels])


def with_anti_aliasing(root: Path) -> None:
    for path in root.glob("masks/*/*"):
        mask = Image.fromarray(areas(2, len(path.name), 4 * HEIGHT, 4 * WIDTH) * 237)
        save(mask.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), path)


def with_four_bands(path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    path.unlink()
    size = {"height": HEIGHT, "width": WIDTH, "count": 4, "dtype": "uint16", "transform": rasterio.Affine.scale(2)}
    with rasterio.open(path.with_suffix(".tif"), "w", driver="GTiff", **size) as file:
        file.write(np.random.default_rng(0).integers(0, 9000, (4, HEIGHT, WIDTH)).astype(np.uint16))


def with_numbers_of_its_own(root: Path) -> None:
    """As a program stores RGB masks that keeps its first colours for itself."""
    indexed = Image.fromarray(areas(3, 1) + 5).convert("P")
    indexed.putpalette([9] * 15 + COLORS.flatten().tolist())
    save(indexed, mask(root))


def with_permuted_palette(root: Path) -> None:
    """As another program may store RGB masks: the colours are right, the numbers are not those of the classes."""
    indexed = Image.fromarray((areas(3, 1) + 1) % 3).convert("P")
    indexed.putpalette([channel for label in (2, 0, 1) for channel in COLORS[label].tolist()])
    save(indexed, mask(root))


def listed(root: Path, train: str, val: str = "val0\nval1\n") -> None:
    """The same files, flat, with split files."""
    for path in [*root.glob("*/*/*.png")]:
        shutil.move(path, path.parent.parent / path.name)
    for folder in [*root.glob("*/*/")]:
        folder.rmdir()
    (root / "train.txt").write_text(train)
    (root / "val.txt").write_text(val)


ORPHANS = frozenset({"missing-mask"})
ALL = "train0\ntrain1\ntrain2\ntrain3\n"
UNREADABLE = "train1.png cannot be read, it is truncated or no image"
DAMAGES = {
    # ------------------------------------------------------------------------------------------ files
    "missing image": Damage(lambda r: image(r).unlink(), "missing-image", "masks/train/train1", "1 mask of"),
    "missing mask": Damage(lambda r: mask(r).unlink(), "missing-mask", "images/train/train1", "1 image of"),
    "masks called otherwise": Damage(
        lambda r: [path.rename(path.with_name(f"{path.stem}_mask.png")) for path in r.glob("masks/*/*")],
        "missing-mask",
        "train3.png",
        "4 images of",
        follows=frozenset({"missing-image"}),
    ),
    "no folder of masks": Damage(
        lambda r: shutil.rmtree(r / "masks/val"), "missing-folder", "", "does not exist", follows=ORPHANS
    ),
    "no masks at all": Damage(
        lambda r: shutil.rmtree(r / "masks"), "missing-folder", "", "does not exist", follows=ORPHANS
    ),
    "folder of masks is a file": Damage(
        lambda r: (shutil.rmtree(r / "masks/val"), (r / "masks/val").write_text("")),
        "missing-folder",
        "",
        "val is no folder",
        follows=ORPHANS,
    ),
    "no validation split": Damage(
        lambda r: [shutil.rmtree(folder) for folder in r.glob("*/val")], "missing-split", "", "has no split 'val'"
    ),
    "empty split": Damage(lambda r: [path.unlink() for path in r.glob("*/val/*")], "empty-split", "", "holds no image"),
    "two images of one stem": Damage(
        lambda r: save(picture(1), image(r, "train1.jpg")), "stem-twice", "train1.jpg", "train1.jpg and train1.png"
    ),
    "two masks of one stem": Damage(
        lambda r: save(areas(3), mask(r, "train1.tif")), "stem-twice", "train1.tif", "train1.png and train1.tif"
    ),
    "zero bytes image": Damage(lambda r: image(r).write_bytes(b""), "unreadable", "images/train", UNREADABLE),
    "zero bytes mask": Damage(lambda r: mask(r).write_bytes(b""), "unreadable", "masks/train", UNREADABLE),
    "text called .png": Damage(lambda r: image(r).write_text("hello"), "unreadable", "images/train", UNREADABLE),
    "truncated image": Damage(lambda r: cut(image(r)), "unreadable", "images/train", UNREADABLE),
    "truncated mask": Damage(lambda r: cut(mask(r)), "unreadable", "masks/train", UNREADABLE),
    "truncated in the header": Damage(lambda r: cut(image(r), 0.002), "unreadable", "images/train", UNREADABLE),
    "truncated JPEG": Damage(
        lambda r: (image(r).unlink(), save(picture(1), image(r, "train1.jpg")), cut(image(r, "train1.jpg"))),
        "unreadable",
        "train1.jpg",
        "train1.jpg cannot be read",
    ),
    "truncated TIFF": Damage(
        lambda r: (mask(r).unlink(), save(areas(3), mask(r, "train1.tif")), cut(mask(r, "train1.tif"))),
        "unreadable",
        "train1.tif",
        "train1.tif cannot be read",
    ),
    "flipped bits": Damage(lambda r: wrong_checksum(mask(r)), "unreadable", "masks/train", UNREADABLE),
    "header of 60000 x 60000 pixels": Damage(
        lambda r: image(r).write_bytes(png_header(60000, 60000)),
        "unreadable",
        "images/train",
        "train1.png is too large to be read at once",
    ),
    "header of 9000 x 9000 pixels": Damage(
        lambda r: mask(r).write_bytes(png_header(9000, 9000)), "unreadable", "masks/train", "9000 x 9000 pixels"
    ),
    "folder called .png": Damage(
        lambda r: replace(image(r), Path.mkdir), "unreadable", "images/train/train1.png is a folder", UNREADABLE
    ),
    "mask is a folder": Damage(lambda r: replace(mask(r), Path.mkdir), "unreadable", "is a folder", UNREADABLE),
    "link to nowhere": Damage(
        lambda r: replace(image(r), lambda path: path.symlink_to(r / "nowhere.png")),
        "unreadable",
        "images/train/train1.png does not exist",
        "does not exist (any more)",
    ),
    "link to itself": Damage(
        lambda r: replace(image(r), lambda path: path.symlink_to(path)), "unreadable", "train1.png", "train1.png"
    ),
    "pipe": Damage(lambda r: replace(image(r), os.mkfifo), "unreadable", "no regular file", "is no regular file"),
    "file of another format": Damage(
        lambda r: image(r, "extra.gif").write_bytes(b"GIF89a"), "other-file", "extra.gif", severity="note"
    ),
    "sub-folder in a split": Damage(
        lambda r: save(picture(9), r / "images/train/more/x.png"), "sub-folder", "train/more", severity="warning"
    ),
    "odd names": Damage(
        lambda r: (
            [
                save(make(seed), r / side / "train" / f"[b]odd{seed} \t\n\udcff ü.png")
                for seed in (50,)
                for side, make in (("images", picture), ("masks", lambda seed: areas(3, seed)), ("images", picture))
            ]
            + [mask(r, "[b]odd50 \t\n\udcff ü.png").unlink()]
        ),
        "missing-mask",
        "[b]odd50 \t\n\udcff ü.png",
        "1 image of",
    ),
    # ------------------------------------------------------------------------------------------ splits as lists
    "listed name without files": Damage(
        lambda r: listed(r, ALL + "train77\n"), "missing-image", "train77", "1 name listed in"
    ),
    "listed name without mask": Damage(
        lambda r: (listed(r, ALL), (r / "masks/train1.png").unlink()), "missing-mask", "train1", "without a mask"
    ),
    "name listed twice": Damage(lambda r: listed(r, ALL + "train1\n"), "listed-twice", "train1", "more than once"),
    "empty list": Damage(lambda r: listed(r, ALL, "\n"), "bad-split-file", "", "val.txt is an empty file"),
    "list that is no text": Damage(
        lambda r: (listed(r, ALL), (r / "val.txt").write_bytes(b"\xff\xfe\x00\x81")),
        "bad-split-file",
        "",
        "val.txt cannot be read as a text file",
    ),
    "name in both lists": Damage(lambda r: listed(r, ALL, "val0\nval1\ntrain1\n"), "same-image", "train1.png"),
    "image twice": Damage(
        lambda r: (shutil.copy(image(r), image(r, "copy.png")), shutil.copy(mask(r), mask(r, "copy.png"))),
        "repeated-image",
        "copy.png = ",
        severity="warning",
    ),
    "image in no list": Damage(lambda r: listed(r, ALL, "val0\n"), "unused-image", "val1.png", severity="note"),
    # ------------------------------------------------------------------------------------------ sizes and kinds
    "mask of another size": Damage(
        lambda r: save(areas(3, 1, HEIGHT, WIDTH + 2), mask(r)), "other-size", "66 x 48", "is 66 x 48 pixels but"
    ),
    "mask turned": Damage(
        lambda r: save(areas(3, 1, WIDTH, HEIGHT), mask(r)), "other-size", "48 x 64", "is 48 x 64 pixels but"
    ),
    "image of 16 bits": Damage(
        lambda r: save(np.full((HEIGHT, WIDTH), 700, np.uint16), image(r)), "deep-image", "I;16", "8 bits per channel"
    ),
    "image of 32-bit floats": Damage(
        lambda r: (image(r).unlink(), save(np.ones((HEIGHT, WIDTH), np.float32), image(r, "train1.tif"))),
        "deep-image",
        "train1.tif",
        "train1.tif has",
    ),
    "image of four bands": Damage(
        lambda r: with_four_bands(image(r)), "other-bands", "train1.tif has 4 bands", "name those to read in bands"
    ),
    "image in CMYK": Damage(
        lambda r: (image(r).unlink(), save(picture(1).convert("CMYK"), image(r, "train1.jpg"))),
        "other-colors",
        "CMYK",
        severity="note",
    ),
    "image with alpha": Damage(
        lambda r: save(picture(1).convert("RGBA"), image(r)), "alpha", "train1.png is RGBA", severity="note"
    ),
    "image upside down by EXIF": Damage(
        lambda r: save(picture(1), image(r), exif=b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"),
        "turned",
        "orientation 3",
        severity="warning",
    ),
    "image on its side by EXIF": Damage(
        lambda r: save(picture(1), image(r), exif=b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        "other-size",
        "by its EXIF orientation, and 64 x 48 as it is stored; save both upright",
        "by its EXIF orientation, and 64 x 48 as it is stored; save both upright",
    ),
    "image of one colour": Damage(
        lambda r: save(Image.new("RGB", (WIDTH, HEIGHT), (9, 9, 9)), image(r)),
        "blank-image",
        "train1.png",
        severity="warning",
    ),
    "mask with alpha": Damage(
        lambda r: save(Image.fromarray(areas(3, 1)).convert("LA"), mask(r)), "mask-kind", "LA", "pixels of the kind LA"
    ),
    "mask of floats": Damage(
        lambda r: (mask(r).unlink(), save(areas(3, 1).astype(np.float32), mask(r, "train1.tif"))),
        "mask-kind",
        "train1.tif",
        "train1.tif has",
    ),
    "mask in CMYK": Damage(
        lambda r: (mask(r).unlink(), save(Image.new("CMYK", (WIDTH, HEIGHT)), mask(r, "train1.tif"))),
        "mask-kind",
        "train1.tif",
        "train1.tif",
    ),
    "mask saved as JPEG": Damage(
        lambda r: (mask(r).unlink(), save(np.full((HEIGHT, WIDTH), 1, np.uint8), mask(r, "train1.jpg"))),
        "lossy-mask",
        "train1.jpg",
        "1 mask saved with lossy compression",
    ),
    # ------------------------------------------------------------------------------------------ values
    "values outside": Damage(
        lambda r: save(areas(3, 1) * 40, mask(r)), "unknown-value", "40, 80", "holds the label values 40, 80"
    ),
    "values of 16 bits outside": Damage(
        lambda r: save(areas(3, 1).astype(np.uint16) * 3000, mask(r)), "unknown-value", "3000, 6000", "3000, 6000"
    ),
    "one class more": Damage(
        lambda r: every_mask(r, lambda labels: areas(4, int(labels.sum()))), "one-class-more", "train1.png", "value 3"
    ),
    "classes counted from 1": Damage(
        lambda r: every_mask(r, lambda labels: labels + 1), "shifted-labels", "train1.png", "holds the label value 3"
    ),
    "masks of 0 and 255": Damage(
        lambda r: every_mask(r, lambda labels: (labels > 0).astype(np.uint8) * 255),
        "two-values",
        "train1.png",
        "0/255 instead of 0/1",
    ),
    "masks of 0 and 128": Damage(
        lambda r: every_mask(r, lambda labels: (labels > 0).astype(np.uint8) * 128),
        "two-values",
        "train1.png",
        "holds the label value 128",
        data={"classes": ["background", "road"]},
    ),
    "anti-aliased masks": Damage(
        with_anti_aliasing,
        "soft-mask",
        "train1.png",
        "`segdistill data check` lists all that is wrong",
        data={"classes": ["background", "road"]},
    ),
    "everything ignored": Damage(
        lambda r: every_mask(r, lambda labels: np.full_like(labels, 255)),
        "nothing-labelled",
        "train1.png",
        "masks/train/train0.png",
    ),
    "mostly ignored": Damage(
        lambda r: every_mask(r, lambda labels: np.where(np.arange(HEIGHT)[:, None] < 40, 255, labels).astype(np.uint8)),
        "mostly-ignored",
        severity="warning",
    ),
    "one mask ignored": Damage(
        lambda r: save(np.full((HEIGHT, WIDTH), 255, np.uint8), mask(r)),
        "all-ignored",
        "masks/train/train1.png",
        severity="warning",
    ),
    "class not in train": Damage(
        lambda r: [save(np.minimum(areas(3), 1), path) for path in r.glob("masks/train/*")], "class-not-in-train"
    ),
    "class not in val": Damage(
        lambda r: [save(np.minimum(areas(3), 1), path) for path in r.glob("masks/val/*")],
        "class-not-in-val",
        severity="warning",
    ),
    "class nowhere": Damage(
        lambda r: every_mask(r, lambda labels: np.maximum(labels, 1)), "class-nowhere", severity="warning"
    ),
    # ------------------------------------------------------------------------------------------ colours
    "colours without a palette": Damage(in_colors, "no-palette", "train1.png", "no palette says which colour"),
    "index masks in three channels": Damage(
        lambda r: save(np.repeat(areas(3, 1)[..., None], 3, axis=2), mask(r)),
        "grey-in-rgb",
        "train1.png",
        "no palette says which colour",
    ),
    "unlisted colour": Damage(
        lambda r: (in_colors(r), save(np.full((HEIGHT, WIDTH, 3), 7, np.uint8), mask(r))),
        "unlisted-color",
        "train1.png",
        "holds the colour #070707",
        data={"palette": PALETTE},
    ),
    "colours saved as JPEG": Damage(
        lambda r: (in_colors(r), mask(r).unlink(), save(COLORS[areas(3, 1)], mask(r, "train1.jpg"), quality=80)),
        "soft-mask",
        "train1.jpg",
        "not in the palette",
        data={"palette": PALETTE},
    ),
    "numbers that are not the classes'": Damage(
        lambda r: (in_colors(r), with_numbers_of_its_own(r)),
        "palette-order",
        "train1.png",
        "holds the label values 5, 6, 7",
        data={"palette": PALETTE},
    ),
    "numbers against colours": Damage(
        lambda r: (in_colors(r), with_permuted_palette(r)),
        "palette-order",
        "train1.png",
        "numbers and colours say different classes",
        data={"palette": PALETTE},
    ),
}


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Damage:
    return DAMAGES[request.param]


def test_check_tells_of_it_alone(damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One damage is no reason for a second error, but where one follows from the other."""
    root = sound_tree(tmp_path / "data")
    damage.do(root)
    report = check_data(data=folder_data(root, **damage.data), names=50, output=tmp_path / "report.json")
    told = [finding for finding in report.findings if finding.kind == damage.kind]
    assert told
    assert {finding.severity for finding in told} == {damage.severity}
    assert any(damage.named in file for finding in told for file in finding.files or ("",))
    errors = {finding.kind for finding in report.findings if finding.severity == "error"}
    assert errors == ({damage.kind} if damage.severity == "error" else set()) | damage.follows
    assert report.ok == (not errors)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert all(finding.advice in printed.out for finding in told)
    assert (tmp_path / "report.json").is_file()


def test_what_a_training_does(damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence and nothing written, or one warning, or not a word."""
    root = sound_tree(tmp_path / "data")
    damage.do(root)
    data = folder_data(root, **damage.data)

    def train() -> None:
        segdistill.train(
            data=data | {"crop": [32, 32]}, network=TINY, output=tmp_path / "run", train=ONE_EPOCH, device="cpu"
        )

    if damage.sentence == RUNS:
        told = [finding for finding in check_data(data=data, quiet=True).findings if finding.severity != "note"]
        train()
        printed = capfd.readouterr()
        warnings = [line for line in printed.out.splitlines() if line.startswith("warning: ")]
        warnings = [line for line in warnings if "no pixel was predicted correctly" not in line]
        assert len(warnings) == len(told)
        assert all(sum(finding.advice in line for line in warnings) == 1 for finding in told)
        assert all(damage.named in line for line in warnings)
    else:
        with pytest.raises(UserError) as error:
            train()
        assert damage.sentence in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
        printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


def test_the_tree_is_sound(tmp_path: Path) -> None:
    """What the damages are done to gives no finding of any kind."""
    report = check_data(data=folder_data(sound_tree(tmp_path / "data")), quiet=True)
    assert report.findings == ()
    assert report.ok


def test_all_at_once(tmp_path: Path) -> None:
    """The first broken file hides none of the others."""
    root = sound_tree(tmp_path / "data", train=12)
    for number, name in enumerate(
        ["zero bytes image", "truncated mask", "mask of another size", "image of 16 bits", "mask with alpha"]
    ):
        target = tmp_path / f"one{number}"
        sound_tree(target)
        DAMAGES[name].do(target)
        for side in ("images", "masks"):
            shutil.copy(target / side / "train/train1.png", root / side / f"train/train{number}.png")
    mask(root, "train7.png").unlink()
    save(areas(3) * 90, mask(root, "train8.png"))
    image(root, "train9.png").write_bytes(b"")
    mask(root, "train9.png").write_bytes(b"")
    report = check_data(data=folder_data(root), quiet=True)
    files = {finding.kind: len(finding.files) for finding in report.findings if finding.severity == "error"}
    assert files == {
        "unreadable": 4,
        "other-size": 1,
        "deep-image": 1,
        "mask-kind": 1,
        "missing-mask": 1,
        "unknown-value": 1,
    }
