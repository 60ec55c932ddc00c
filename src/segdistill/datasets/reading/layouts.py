"""What the folders of published data sets have in common: a root at one of several levels, lists of names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from segdistill.datasets.reading.files import Pair, existing_folder, refuse_missing
from segdistill.errors import UserError
from segdistill.files import files_below


def find_root(root: Path, levels: Sequence[str], marker: str, holding: str) -> Path:
    """The folder that holds ``marker``: ``root`` or one below it, so that users may name any level.

    Args:
        root: what the user gave.
        levels: folders below ``root`` that may be meant, the likeliest first; ``"."`` is ``root`` itself.
        marker: a folder that only the right level holds.
        holding: what ``root`` should hold, in words.

    Raises:
        UserError: none of them holds ``marker``.
    """
    existing_folder(root, holding)
    for level in levels:
        if (root / level / marker).is_dir():
            return root / level
    below = [f"{level}/{marker}" for level in levels if level != "."]
    raise UserError(f"{root} holds no {' nor '.join([*below, marker])}; expected {holding}")


def files_ending(folder: Path, ending: str) -> dict[str, Path]:
    """The files in and below ``folder`` whose names end in ``ending``, by what precedes it, sorted by path.

    Linked folders are followed. A folder that is not there holds none.
    """
    # Names with a leading dot are droppings of file systems ("._x.png" on a disk that saw a Mac).
    paths = [path for path in files_below(folder) if path.name.endswith(ending) and not path.name.startswith(".")]
    return {path.name.removesuffix(ending): path for path in paths}


def listed_pairs(
    names: Sequence[str], images: Mapping[str, Path], masks: Mapping[str, Path], *, listing: Path | str, where: str
) -> list[Pair]:
    """The image and the mask of each of the ``names`` of a split.

    Args:
        names: the samples, in order.
        images: image files by name.
        masks: mask files by name.
        listing: what lists the names: a file, or files in words.
        where: where masks were looked for, in words.

    Raises:
        UserError: a name listed twice, without an image, or without a mask.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{listing} lists {twice[0]} more than once")
    refuse_missing(names, images, f"name{{s}} listed in {listing} without an image")
    refuse_missing(names, masks, f"name{{s}} listed in {listing} without a mask in {where}")
    return [(images[name], masks[name]) for name in names]
