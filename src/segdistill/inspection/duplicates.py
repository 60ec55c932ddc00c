"""The same image in two splits: equal pixels, or a copy that was compressed or resized again.

A network that has seen a validation image in training scores better on it than on new ones, so that every
comparison on that split is worth less than it seems.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from segdistill.datasets.base import Window
from segdistill.errors import UserError
from segdistill.files import digest
from segdistill.inspection.findings import Finding
from segdistill.progress import counted

# Measured on CamVid and IDD-Lite. Validation images compressed again at JPEG qualities 30 to 90, or halved in size,
# stayed within a Hamming distance of 4, a mean difference of 1.9 grey levels between thumbnails and a correlation of
# 0.997. No validation image came closer to a training image than 9, 13.2 and 0.953.
LARGEST_DISTANCE = 6
LARGEST_DIFFERENCE = 4.0
LEAST_CORRELATION = 0.98

_GLANCE = 2**16
"""Bytes from the middle of a file by which it is told from others of its size."""

_THUMBNAIL = (32, 32)
_CANVAS = 1024
"""Longest side of the grey image that thumbnails are made of, in pixels."""


@dataclass(frozen=True)
class Fingerprint:
    """What an image is recognised by.

    Attributes:
        content: hash of the size and all pixels.
        difference_hash: 64 bits, whether each pixel of the grey 9 x 8 thumbnail is brighter than its left
            neighbour.
        thumbnail: uint8 (1024,), the grey 32 x 32 thumbnail.
    """

    content: bytes
    difference_hash: int
    thumbnail: np.ndarray

    @property
    def blank(self) -> bool:
        """Whether the image is all of one colour as far as the thumbnail tells; such images are all alike."""
        return int(self.thumbnail.max()) - int(self.thumbnail.min()) <= 1


class FingerprintMaker:
    """Makes the fingerprint of an image that is shown window by window.

    Args:
        size: (height, width) of the image in pixels.

    Example:
        >>> import torch
        >>> ramp = (torch.arange(0, 64).expand(3, 48, 64) * 4).to(torch.uint8)
        >>> maker = FingerprintMaker((48, 64))
        >>> maker.add(Window(0, 0, 48, 64), ramp)
        >>> maker.finish().difference_hash == 2**64 - 1  # brighter to the right everywhere
        True
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self._factor = -(-max(size) // _CANVAS)
        self._grey = torch.zeros(-(-size[0] // self._factor), -(-size[1] // self._factor))
        self._content = hashlib.blake2b(repr(size).encode(), digest_size=16)
        self._own_unit = False

    def step(self, side: int) -> int:
        """The distance of windows of at most about ``side`` pixels that fit together on the canvas."""
        return max(1, side // self._factor) * self._factor

    def add(self, window: Window, image: Tensor) -> None:
        """Takes the pixels (C, h, w) of ``window``; all windows of an image, always in one order."""
        pixels = image.contiguous()
        self._content.update(pixels.numpy().data)
        self._own_unit |= pixels.dtype != torch.uint8
        grey = pixels.float().nan_to_num(0, 0, 0).mean(0)
        small = avg_pool2d(grey[None], self._factor, ceil_mode=True)[0]
        top, left = window.top // self._factor, window.left // self._factor
        self._grey[top : top + small.shape[0], left : left + small.shape[1]] = small

    def finish(self) -> Fingerprint:
        """The fingerprint, once all windows were added."""
        grey = self._grey
        if self._own_unit:
            low, high = grey.aminmax()
            grey = (grey - low) * (255 / (high - low).clamp_min(1e-12))
        picture = Image.fromarray(grey.numpy())
        # A box filter of the whole image: single bright pixels must not decide a bit.
        small = np.asarray(picture.resize((9, 8), Image.Resampling.BOX))
        bits = np.packbits(small[:, 1:] > small[:, :-1])
        thumbnail = np.asarray(picture.resize(_THUMBNAIL, Image.Resampling.BOX)).round().astype(np.uint8).ravel()
        return Fingerprint(self._content.digest(), int.from_bytes(bits.tobytes(), "big"), thumbnail)


def same_images(splits: Mapping[str, Sequence[tuple[str, Fingerprint]]]) -> list[Finding]:
    """The images that two splits share, and those that one split holds twice.

    Args:
        splits: (file name, fingerprint) of every image by split; blank images are left out.
    """
    known = {split: [(name, mark) for name, mark in images if not mark.blank] for split, images in splits.items()}
    contents = {split: [(name, mark.content) for name, mark in images] for split, images in known.items()}
    findings = []
    for first, second in combinations(known, 2):
        equal = _equal_pairs(contents[first], contents[second])
        alike = list(_alike_pairs(known[first], known[second]))
        findings += _shared("same-image", first, second, equal, "the same pixels")
        how = "the same picture, compressed or resized again, or the next frame of a film"
        findings += _shared("re-encoded-image", first, second, alike, how)
    for split, images in contents.items():
        findings += _repeated(split, images)
    return findings


def same_files(splits: Mapping[str, Sequence[Path]]) -> list[Finding]:
    """The same of files that are equal byte by byte, of which few need to be read.

    Args:
        splits: image files by split.

    Raises:
        UserError: a file that cannot be read.
    """
    contents = _contents_of_twins([path for paths in splits.values() for path in paths])
    named = {
        split: [(str(path), contents[path]) for path in paths if path in contents] for split, paths in splits.items()
    }
    findings = []
    for first, second in combinations(named, 2):
        findings += _shared("same-image", first, second, _equal_pairs(named[first], named[second]), "the same file")
    for split, images in named.items():
        findings += _repeated(split, images)
    return findings


def _contents_of_twins(paths: Sequence[Path]) -> dict[Path, bytes]:
    """Hashes of the files that may have an equal among ``paths``: of one size, and alike in their middle."""
    try:
        groups = _grouped(paths, lambda path: path.stat().st_size)
        # Uncompressed images are all of one size; a glance at each spares reading most of them.
        groups = [twins for group in groups for twins in _grouped(group, _middle)]
        return {path: bytes.fromhex(digest(path)) for group in groups for path in group}
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error


def _grouped(paths: Iterable[Path], key: Callable[[Path], object]) -> list[list[Path]]:
    """The paths of each value of ``key`` that several have."""
    groups: dict[object, list[Path]] = {}
    for path in paths:  # one that stands there twice is its own twin
        groups.setdefault(key(path), []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _middle(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(path.stat().st_size // 2)
        return file.read(_GLANCE)


def _shared(kind: str, first: str, second: str, pairs: Sequence[tuple[str, str]], how: str) -> list[Finding]:
    if not pairs:
        return []
    number = len(pairs)
    return [
        Finding(
            "error",
            kind,
            None,
            f"{counted(number, 'image')} of {first} {'is' if number == 1 else 'are'} also in {second}: {how}",
            f"remove them from {first} or from {second}; otherwise the scores are too good",
            tuple(f"{one} = {other}" for one, other in pairs),
        )
    ]


def _repeated(split: str, images: Sequence[tuple[str, bytes]]) -> list[Finding]:
    groups: dict[bytes, list[str]] = {}
    for name, content in images:
        groups.setdefault(content, []).append(name)
    twice = tuple(" = ".join(names) for names in groups.values() if len(names) > 1)
    if not twice:
        return []
    return [
        Finding(
            "warning",
            "repeated-image",
            split,
            f"{counted(len(twice), 'image')} occur{'s' * (len(twice) == 1)} more than once",
            "keep one copy of each; otherwise it has more weight than other images, or its masks contradict each other",
            twice,
        )
    ]


def _equal_pairs(ours: Sequence[tuple[str, bytes]], theirs: Sequence[tuple[str, bytes]]) -> list[tuple[str, str]]:
    by_content: dict[bytes, list[str]] = {}
    for name, content in theirs:
        by_content.setdefault(content, []).append(name)
    return [(name, other) for name, content in ours for other in by_content.get(content, [])]


def _alike_pairs(
    ours: Sequence[tuple[str, Fingerprint]], theirs: Sequence[tuple[str, Fingerprint]]
) -> Iterator[tuple[str, str]]:
    """Those that look alike, and are not the same."""
    hashes = np.array([mark.difference_hash for _, mark in theirs], dtype=np.uint64)
    for name, mark in ours:
        distances = np.bitwise_count(hashes ^ np.uint64(mark.difference_hash))
        for index in np.flatnonzero(distances <= LARGEST_DISTANCE):
            other, candidate = theirs[int(index)]
            if mark.content == candidate.content:
                continue
            if _look_alike(mark.thumbnail.astype(np.float64), candidate.thumbnail.astype(np.float64)):
                yield name, other


def _look_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """The hash alone would take any two flat images for the same; their thumbnails decide."""
    if np.abs(one - other).mean() > LARGEST_DIFFERENCE:
        return False
    return bool(np.corrcoef(one, other)[0, 1] >= LEAST_CORRELATION)
