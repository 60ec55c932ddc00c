"""Damages to what the files hold: sizes, kinds of pixels, values of labels, colours."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.inspection.damaging import (
    COLORS,
    PALETTE,
    Damage,
    every_mask,
    image,
    in_colors,
    mask,
    with_anti_aliasing,
    with_four_bands,
    with_numbers_of_its_own,
    with_permuted_palette,
)
from tests.inspection.trees import HEIGHT, WIDTH, areas, picture, save

OF_PIXELS = {
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
        "numbers and colours stand for different classes",
        data={"palette": PALETTE},
    ),
}
