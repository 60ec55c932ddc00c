"""What went wrong with masks whose values are no classes: told from the values and from how they lie in the image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from segdistill.colors import hex_color
from segdistill.datasets.reading.checking import slopes
from segdistill.datasets.reading.masks import MaskFile, MaskReader, NeitherError, packed
from segdistill.inspection.findings import Finding, percent
from segdistill.progress import counted

# Measured on CamVid and IDD-Lite. Under another numbering of the classes at most 0.3 % of a mask's unknown pixels lie
# on a slope or alone; in road masks blurred, resized or saved as JPEG of quality 60 to 95 it is 77 % or more.
SOFT_SHARE = 0.5
FEWEST_SOFT_VALUES = 3

MOST_COLORS = 12
"""Colours that a finding lists."""

MOST_VALUES = 512
"""Different values of a mask that are kept, the most frequent ones: a photograph taken for a mask has 100 000."""

_WINDOW = 1024
"""Pixels on a side of the middle of a mask that is looked at for soft edges."""

_SINGULAR = {"hold": "holds", "are": "is", "count": "counts"}
"""The verbs with which findings begin, as they are said of one mask."""


@dataclass(frozen=True)
class RefusedMask:
    """A mask that was decoded, but whose values are not all classes.

    Attributes:
        path: the file.
        sentence: why it was refused.
        form: what its pixels are.
        values: number of pixels of each value, colours as 0xrrggbb; at most `MOST_VALUES` of them.
        distinct: how many values there are.
        unknown: the values that stand for no class.
        soft: whether the unknown values lie between the others, as blurring, resizing and JPEG make them.
    """

    path: Path
    sentence: str
    form: Literal["index", "color", "neither"]
    values: Counter[int]
    distinct: int
    unknown: frozenset[int]
    soft: bool


def examine(path: Path, sentence: str, reader: MaskReader) -> RefusedMask:
    """Looks at a mask that ``reader`` refused with ``sentence``.

    Raises:
        UserError: if the file cannot be decoded after all.
    """
    try:
        values, *without_label = MaskFile(path).read()
    except NeitherError:
        return RefusedMask(path, sentence, "neither", Counter(), 0, frozenset(), soft=False)
    # Pixels that need no label get a value that is known.
    unasked = np.logical_or.reduce([where for where in without_label if where is not None], initial=False)
    if values.ndim == 2:
        numbers = np.where(unasked, min(reader.known), values.astype(np.int64))
        return _refused(path, sentence, "index", numbers, numbers, reader.known)
    if reader.palette is not None:
        values = np.where(unasked, np.array(reader.palette[0], dtype=np.uint8)[:, None, None], values)
    known = frozenset(red << 16 | green << 8 | blue for red, green, blue in reader.palette or ())
    # The packed number does not rise evenly from one colour to another; the sum of the channels mostly does.
    return _refused(path, sentence, "color", packed(values), values.sum(axis=0, dtype=np.int32), known)


def alone(values: np.ndarray) -> np.ndarray:
    """Pixels without a neighbour of their own value beside, above or below them: bool (H, W)."""
    accompanied = np.zeros(values.shape, dtype=bool)
    for axis in (0, 1):
        lines, result = np.moveaxis(values, axis, 0), np.moveaxis(accompanied, axis, 0)
        equal = lines[1:] == lines[:-1]
        result[1:] |= equal
        result[:-1] |= equal
    return ~accompanied


def diagnose(
    split: str,
    masks: Sequence[RefusedMask],
    reader: MaskReader,
    classes: Sequence[str],
    seen: frozenset[int],
) -> list[Finding]:
    """The findings about refused masks of one split, each with its cause and its cure.

    Args:
        split: name of the split.
        masks: the refused masks.
        reader: what refused them.
        classes: names of the classes.
        seen: every index that occurs in any mask of the data set, also in those that were read.
    """
    groups: dict[Callable[..., Finding], list[RefusedMask]] = {}
    for mask in masks:
        groups.setdefault(_cause(mask, reader, seen), []).append(mask)
    return [tell(split, found, reader, classes) for tell, found in groups.items()]


def _refused(
    path: Path,
    sentence: str,
    form: Literal["index", "color"],
    values: np.ndarray,
    levels: np.ndarray,
    known: frozenset[int],
) -> RefusedMask:
    found, numbers = np.unique(values, return_counts=True)
    most = Counter(dict(zip(found.tolist(), numbers.tolist(), strict=True))).most_common(MOST_VALUES)
    return RefusedMask(
        path,
        sentence,
        form,
        Counter(dict(most)),
        len(found),
        frozenset(value for value, _ in most if value not in known),
        soft=_has_soft_edges(_middle(values), _middle(levels), known),
    )


def _has_soft_edges(values: np.ndarray, levels: np.ndarray, known: frozenset[int]) -> bool:
    found, positions, numbers = np.unique(values, return_inverse=True, return_counts=True)
    fuzzy = np.bincount(positions.ravel(), weights=(slopes(levels) | alone(values)).ravel())
    unknown = np.array([value not in known for value in found.tolist()])
    softened = int((unknown & (fuzzy / numbers >= SOFT_SHARE)).sum())
    return softened >= FEWEST_SOFT_VALUES and 2 * softened >= int(unknown.sum())


def _middle(values: np.ndarray) -> np.ndarray:
    top, left = (max(0, (length - _WINDOW) // 2) for length in values.shape)
    return values[top : top + _WINDOW, left : left + _WINDOW]


def _cause(mask: RefusedMask, reader: MaskReader, seen: frozenset[int]) -> Callable[..., Finding]:
    if mask.form == "neither":
        return _tell_kind
    if mask.form == "color":
        if reader.palette is None:
            return _tell_grey_rgb if all(_is_grey(value) for value in mask.values) else _tell_no_palette
        return _tell_soft if mask.soft else _tell_unlisted_colors
    if mask.soft:
        return _tell_soft
    others = set(mask.values) - mask.unknown
    if len(mask.unknown) == 1 and others <= {0} and (reader.classes == 2 or mask.unknown == {255}):
        return _tell_two_values
    classes = range(reader.classes)
    if (
        not reader.values
        and 0 not in seen
        and all(value in (reader.ignore, reader.ignore + 1) or value - 1 in classes for value in seen)
    ):
        return _tell_shift
    if mask.unknown == {reader.classes} and all(value <= reader.classes or value == reader.ignore for value in seen):
        return _tell_one_more
    return _tell_values


def _tell_soft(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    number = max(mask.distinct for mask in masks)
    how = "save them again from the source as PNG, without anti-aliasing, resizing only by nearest neighbours"
    if masks[0].form == "color":
        what, cure = "colours", f"{how}, or give each pixel the nearest colour of the palette"
    else:
        lowest, highest = _range(masks)
        what = f"values from {lowest} to {highest}"
        cure = how
        if reader.classes == 2:
            cure = (
                f"make them 0 and 1, e.g. (mask > {(lowest + highest) // 2}).astype('uint8') in numpy for "
                f"1 = '{classes[1]}', and save them as PNG"
            )
    return _finding(
        "soft-mask",
        split,
        masks,
        f"hold up to {number} different {what}, most of them along edges: anti-aliased, resized or JPEG-compressed "
        f"masks, where {reader.classes} classes were expected",
        cure,
    )


def _tell_two_values(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    unknown = sorted(set().union(*(mask.unknown for mask in masks)))
    high = _listed(unknown)
    return _finding(
        "two-values",
        split,
        masks,
        f"hold {high} where a class number is expected, as in masks written as 0/255 instead of 0/1",
        f"set {_mapping(dict.fromkeys(unknown, 1))}, so that 0 is '{classes[0]}' and {high} is '{classes[1]}'",
    )


def _tell_shift(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    return _finding(
        "shifted-labels",
        split,
        masks,
        f"count the classes from 1 to {reader.classes}, and 0 occurs nowhere; expected 0 to {reader.classes - 1}",
        f"set {_mapping({label + 1: label for label in range(reader.classes)})}, so that 1 is '{classes[0]}'",
    )


def _tell_one_more(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    last = reader.classes
    return _finding(
        "one-class-more",
        split,
        masks,
        f"hold the value {last}: 0 to {last} are {last + 1} values for {last} names of classes",
        f"name the missing class (a background at 0 is often forgotten), or set ignore: {last} if {last} means "
        f"'ignored', or {_mapping({0: 255} | {label + 1: label for label in range(last)})} if 0 does",
    )


def _tell_values(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    unknown = set().union(*(mask.unknown for mask in masks))
    return _finding(
        "unknown-value",
        split,
        masks,
        f"hold the label value{'s' * (len(unknown) != 1)} {_listed(sorted(unknown))}, outside the classes 0 to "
        f"{reader.classes - 1} and the ignore label {reader.ignore}",
        "name every class in 'classes', give the ignored number as 'ignore', or map the numbers to classes with "
        f"'mask_values', such as {_mapping({min(unknown, default=0): 0})}; masks that are grey "
        "copies of colour pictures must be saved as class numbers, or in colour with a 'palette'",
        [f"{mask.path}: {_listed(sorted(mask.unknown))}" for mask in masks],
    )


def _tell_kind(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    what = "hold pixels of a kind that is neither class numbers nor colours"
    advice = "save them as 8-bit PNG with one channel of class numbers, without an alpha channel"
    return _finding("mask-kind", split, masks, what, advice, [mask.sentence for mask in masks])


def _tell_grey_rgb(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    values = Counter[int]()
    for mask in masks:
        values.update({value & 255: count for value, count in mask.values.items()})
    return _finding(
        "grey-in-rgb",
        split,
        masks,
        f"are grey pictures saved in three channels, with the levels {_listed(sorted(values))}",
        "save one channel, e.g. Image.open(file).convert('L').save(file), and check again",
    )


def _tell_no_palette(split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]) -> Finding:
    return _finding(
        "no-palette",
        split,
        masks,
        f"are RGB masks, and no palette says which colour is which class; their colours: {_colors(masks, None)}",
        "give a colour for each class as 'palette', and that of ignored pixels as 'ignore_color'",
    )


def _tell_unlisted_colors(
    split: str, masks: Sequence[RefusedMask], reader: MaskReader, classes: Sequence[str]
) -> Finding:
    unknown = frozenset[int]().union(*(mask.unknown for mask in masks))
    return _finding(
        "unlisted-color",
        split,
        masks,
        f"hold colours that are not in the palette: {_colors(masks, unknown)}",
        "add the missing class and its colour, correct the palette, or give the colour of ignored pixels as "
        "'ignore_color'",
    )


def _finding(
    kind: str,
    split: str,
    masks: Sequence[RefusedMask],
    what: str,
    advice: str,
    files: Sequence[str] | None = None,
) -> Finding:
    named = [str(mask.path) for mask in masks] if files is None else files
    if len(masks) == 1:
        verb, _, rest = what.partition(" ")
        what = f"{_SINGULAR[verb]} {rest}"
    return Finding("error", kind, split, f"{counted(len(masks), 'mask')} {what}", advice, tuple(named))


def _mapping(values: Mapping[int, int]) -> str:
    """The key of a recipe that gives numbers another meaning."""
    return f"mask_values: {{{', '.join(f'{value}: {label}' for value, label in values.items())}}}"


def _range(masks: Sequence[RefusedMask]) -> tuple[int, int]:
    return min(min(mask.values) for mask in masks), max(max(mask.values) for mask in masks)


def _is_grey(color: int) -> bool:
    return color >> 16 == (color >> 8 & 255) == (color & 255)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(str(value) for value in values[:8]) + (", ..." if len(values) > 8 else "")


def _colors(masks: Iterable[RefusedMask], only: frozenset[int] | None) -> str:
    """The most frequent colours with their share of the masks' pixels."""
    total = Counter[int]()
    for mask in masks:
        total.update(mask.values)
    pixels = total.total()
    shown = [(color, count) for color, count in total.most_common() if only is None or color in only]
    texts = [
        f"{hex_color((color >> 16, color >> 8 & 255, color & 255))} ({percent(count / pixels)})"
        for color, count in shown[:MOST_COLORS]
    ]
    return ", ".join(texts) + (f" and {len(shown) - MOST_COLORS} more" if len(shown) > MOST_COLORS else "")
