"""ISPRS 2D semantic labelling: Vaihingen and Potsdam, large aerial images of six classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.files import existing_folder, missing_split, refuse_missing
from segdistill.datasets.reading.masks import MaskPixels, MaskReader
from segdistill.datasets.reading.tiles import TileDataset
from segdistill.files import as_path

_CLASSES = ("impervious surfaces", "building", "low vegetation", "tree", "car", "clutter")
_PALETTE = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
_BOUNDARY = (0, 0, 0)
_CLUTTER = 5


class _IsprsTiles(TileDataset):
    """What Vaihingen and Potsdam have in common; they say where the files of a tile lie."""

    CLASSES = _CLASSES
    PALETTE = _PALETTE
    TILES: ClassVar[dict[str, tuple[str, ...]]]

    @classmethod
    def _tiles(cls, root: Path, split: str) -> tuple[str, ...]:
        if split not in (*cls.TILES, "val"):
            raise missing_split(root, split, (*cls.TILES, "val"))
        return cls.TILES["test" if split == "val" else split]

    def __init__(
        self,
        root: Path,
        split: str,
        images: Sequence[Path],
        masks: Sequence[Path],
        heights: Sequence[Path] | None,
        bands: Sequence[int] | None,
        *,
        clutter: bool,
        tiled_copy: str | Path | None,
        crops_per_image: int,
        evaluation_window: int,
    ) -> None:
        there = {str(path): path for path in (*images, *masks, *(heights or ())) if path.is_file()}
        for kind, paths in (("image", images), ("mask", masks), ("height map", heights or ())):
            refuse_missing([str(path) for path in paths], there, f"{kind}{{s}} of the split '{split}' not in {root}")
        classes = len(_CLASSES) if clutter else _CLUTTER
        super().__init__(
            list(zip(images, masks, strict=True)),
            _IsprsMaskReader(clutter),
            classes=_CLASSES[:classes],
            palette=_PALETTE[:classes],
            bands=bands,
            heights=heights,
            tiled_copy=tiled_copy,
            crops_per_image=crops_per_image,
            evaluation_window=evaluation_window,
        )


class Vaihingen(_IsprsTiles):
    """ISPRS Vaihingen: 33 tiles of about 2000 x 2500 pixels, 9 cm each, near infrared, red and green.

    Cramer, *The DGPF test on digital aerial camera evaluation*, PFG 2/2010; Rottensteiner et al., *The ISPRS benchmark
    on urban object classification and 3D building reconstruction*, ISPRS Annals I-3, 2012.

    ``root`` holds what the downloads hold: ``top/top_mosaic_09cm_areaN.tif``; the reference, in
    ``ISPRS_semantic_labeling_Vaihingen_ground_truth_COMPLETE/`` or ``gts_for_participants/``; the eroded reference, as
    ``top_mosaic_09cm_areaN_noBoundary.tif`` in ``ISPRS_semantic_labeling_Vaihingen_ground_truth_eroded_COMPLETE/`` or
    ``gts_eroded_for_participants/``; normalised heights, which were published apart, in ``ndsm/`` as 8-bit pictures
    named ``ndsm_09cm_matching_areaN`` or ``dsm_09cm_matching_areaN_normalized``. All may lie in a folder
    ``ISPRS_semantic_labeling_Vaihingen/`` of ``root``.

    The splits are the contest's: 16 tiles "train", 17 "test". It has no validation tiles: "val" is "test" by another
    name, as in most published comparisons, so choose nothing by its scores that you then report.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        ndsm: normalised heights as a fourth channel.
        eroded: the reference without the pixels within 3 of a boundary, which the contest scores by; they are ignored.
        clutter: count the class clutter; if not, its pixels are ignored and there are five classes.
        tiled_copy, crops_per_image, evaluation_window: see :class:`TileDataset`.

    Raises:
        UserError: missing folder, unknown split, a tile of the split without image, mask or heights, or rasterio not
            installed.
    """

    TILES: ClassVar = {
        "train": ("1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37"),
        "test": ("2", "4", "6", "8", "10", "12", "14", "16", "20", "22", "24", "27", "29", "31", "33", "35", "38"),
    }

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        ndsm: bool = False,
        eroded: bool = False,
        clutter: bool = True,
        tiled_copy: str | Path | None = None,
        crops_per_image: int = 21,
        evaluation_window: int = 1024,
    ) -> None:
        root = existing_folder(as_path(root, "root"), "the folder of Vaihingen that holds top/")
        tiles = self._tiles(root, split)
        download = "ISPRS_semantic_labeling_Vaihingen"
        top = _folder(root, "top", f"{download}/top")
        if eroded:
            ending = "_noBoundary.tif"
            folders = (f"{download}_ground_truth_eroded_COMPLETE", "gts_eroded_for_participants")
        else:
            ending = ".tif"
            folders = (f"{download}_ground_truth_COMPLETE", "gts_for_participants")
        reference = _folder(root, *folders, *(f"{download}/{folder}" for folder in folders))
        super().__init__(
            root,
            split,
            [top / f"top_mosaic_09cm_area{tile}.tif" for tile in tiles],
            [reference / f"top_mosaic_09cm_area{tile}{ending}" for tile in tiles],
            [_vaihingen_heights(_folder(root, "ndsm", f"{download}/ndsm"), tile) for tile in tiles] if ndsm else None,
            (1, 2, 3),
            clutter=clutter,
            tiled_copy=tiled_copy,
            crops_per_image=crops_per_image,
            evaluation_window=evaluation_window,
        )


class Potsdam(_IsprsTiles):
    """ISPRS Potsdam: 38 tiles of 6000 x 6000 pixels, 5 cm each, red, green, blue and near infrared.

    ``root`` holds the unpacked downloads, each in a folder of its name, or in one of the same name within it:
    ``2_Ortho_RGB/top_potsdam_2_10_RGB.tif``, ``3_Ortho_IRRG/``, ``4_Ortho_RGBIR/``; the reference
    ``5_Labels_all/top_potsdam_2_10_label.tif`` or ``5_Labels_for_participants/``; the eroded reference
    ``5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif`` or ``5_Labels_for_participants_no_Boundary/``;
    normalised heights, 8 bits, 10 cm a step, ``1_DSM_normalisation/dsm_potsdam_02_10_normalized_lastools.jpg``. Only
    those that the arguments ask for need be there.

    The splits are the contest's: 24 tiles "train", 14 "test". It has no validation tiles: "val" is "test" by another
    name, as in most published comparisons, so choose nothing by its scores that you then report.

    The published masks of tiles 4_12 and 6_7 hold colours that are near, but not in, the palette; they are rounded to
    it. The height map of tile 3_13 lacks a column; its last one is repeated.

    Args:
        root: the folder.
        split: "train", "val" or "test".
        bands: the picture: red, green, blue; or near infrared, red, green; or red, green, blue, near infrared.
        ndsm: normalised heights as one more channel.
        eroded: the reference without the pixels within 3 of a boundary, which the contest scores by; they are ignored.
        clutter: count the class clutter; if not, its pixels are ignored and there are five classes.
        tiled_copy, crops_per_image, evaluation_window: see :class:`TileDataset`.

    Raises:
        UserError: missing folder, unknown split, a tile of the split without image, mask or heights, or rasterio not
            installed.
    """

    # Row and column of each tile.
    TILES: ClassVar = {
        "train": (
            *("2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12"),
            *("6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_10", "7_11", "7_12"),
        ),
        "test": (
            *("2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15"),
            *("5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13"),
        ),
    }

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        bands: Literal["RGB", "IRRG", "RGBIR"] = "RGB",
        ndsm: bool = False,
        eroded: bool = False,
        clutter: bool = True,
        tiled_copy: str | Path | None = None,
        crops_per_image: int = 144,
        evaluation_window: int = 1024,
    ) -> None:
        root = existing_folder(as_path(root, "root"), "the folder of Potsdam that holds 2_Ortho_RGB/ or the like")
        tiles = self._tiles(root, split)
        name = {"RGB": "2_Ortho_RGB", "IRRG": "3_Ortho_IRRG", "RGBIR": "4_Ortho_RGBIR"}[bands]
        pictures = _folder(root, *_nested(name))
        if eroded:
            ending = "_label_noBoundary.tif"
            folders = ("5_Labels_all_noBoundary", "5_Labels_for_participants_no_Boundary")
        else:
            ending = "_label.tif"
            folders = ("5_Labels_all", "5_Labels_for_participants")
        reference = _folder(root, *(path for folder in folders for path in _nested(folder)))
        heights = None
        if ndsm:
            folder = _folder(root, *_nested("1_DSM_normalisation"))
            heights = [folder / f"dsm_potsdam_{_two_digits(tile)}_normalized_lastools.jpg" for tile in tiles]
        super().__init__(
            root,
            split,
            [pictures / f"top_potsdam_{tile}_{bands}.tif" for tile in tiles],
            [reference / f"top_potsdam_{tile}{ending}" for tile in tiles],
            heights,
            (1, 2, 3, 4) if bands == "RGBIR" else (1, 2, 3),
            clutter=clutter,
            tiled_copy=tiled_copy,
            crops_per_image=crops_per_image,
            evaluation_window=evaluation_window,
        )


class _IsprsMaskReader(MaskReader):
    """Colours of the six classes; black, the boundary of the eroded reference, is ignored."""

    #: Published with other values than 0 and 255: 4_12 went through a lossy compression, 6_7 has cars of (252, 255, 0).
    OFF_PALETTE = ("top_potsdam_4_12_", "top_potsdam_6_7_")

    def __init__(self, clutter: bool) -> None:
        super().__init__(len(_CLASSES), palette=_PALETTE, ignore_color=_BOUNDARY)
        self.clutter = clutter
        self.identity += f" isprs {clutter}"

    def decode(self, pixels: MaskPixels, path: Path) -> Tensor:
        if path.name.startswith(self.OFF_PALETTE):
            # All colours of the palette are corners of the colour cube, so that each channel can be rounded alone.
            pixels = pixels._replace(values=np.where(pixels.values < 128, 0, 255).astype(np.uint8))
        labels = super().decode(pixels, path)
        return labels if self.clutter else labels.masked_fill(labels == _CLUTTER, IGNORE_INDEX)


def _folder(root: Path, *names: str) -> Path:
    """The first of the folders that is there; the first of all if none is, for the sentence that says so."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _nested(name: str) -> tuple[str, str]:
    """The folder of a download, unpacked with or without a folder made for it."""
    return f"{name}/{name}", name


def _two_digits(tile: str) -> str:
    return "_".join(number.zfill(2) for number in tile.split("_"))


def _vaihingen_heights(folder: Path, tile: str) -> Path:
    stems = (f"dsm_09cm_matching_area{tile}_normalized", f"ndsm_09cm_matching_area{tile}")
    files = [folder / f"{stem}{suffix}" for stem in stems for suffix in (".jpg", ".bmp", ".png", ".tif")]
    return next((file for file in files if file.is_file()), files[0])
