"""Damages to the files of a data set: what lacks, what cannot be read, and what its lists say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.inspection.damaging import (
    Damage,
    cut,
    image,
    mask,
    png_header,
    replace,
    wrong_checksum,
)
from tests.inspection.trees import areas, picture, save


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
OF_FILES = {
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
}
