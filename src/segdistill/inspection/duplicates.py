"""The same image in two splits: equal pixels, or a copy that was compressed or resized again.

A network that has seen a validation image in training scores better on it than on new ones, so that every
comparison on that split is worth less than it seems.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d

from segdistill.datasets.base import Window
from segdistill.inspection.findings import Finding, counted

# Measured on CamVid and IDD-Lite. Validation images compressed again at JPEG qualities 30 to 90, or halved in size,
# stayed within a Hamming distance of 4, a mean difference of 1.9 grey levels between thumbnails and a correlation of
# 0.997. No validation image came closer to a training image than 9, 13.2 and 0.953.
LARGEST_DISTANCE = 6
LARGEST_DIFFERENCE = 4.0
LEAST_CORRELATION = 0.98

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

    def step(self, side: int) -> int:
        """The distance of windows of at most about ``side`` pixels that fit together on the canvas."""
        return max(1, side // self._factor) * self._factor

    def add(self, window: Window, image: Tensor) -> None:
        """Takes the pixels (C, h, w) of ``window``; all windows of an image, always in one order."""
        pixels = image.contiguous()
        self._content.update(pixels.numpy().data)
        grey = pixels.float().mean(0)
        small = avg_pool2d(grey[None], self._factor, ceil_mode=True)[0]
        top, left = window.top // self._factor, window.left // self._factor
        self._grey[top : top + small.shape[0], left : left + small.shape[1]] = small

    def finish(self) -> Fingerprint:
        """The fingerprint, once all windows were added."""
        grey = self._grey
        if float(grey.max()) > 255 or float(grey.min()) < 0:  # an image in a unit of its own
            grey = (grey - grey.min()) / (grey.max() - grey.min()) * 255
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
    findings = []
    for (first, ours), (second, theirs) in combinations(known.items(), 2):
        equal = _equal_pairs(ours, theirs)
        alike = [pair for pair in _alike_pairs(ours, theirs) if pair not in set(equal)]
        for kind, pairs, how in (
            ("same-image", equal, "the same pixels"),
            ("re-encoded-image", alike, "the same picture, compressed or resized again, or the next frame of a film"),
        ):
            if pairs:
                findings.append(
                    Finding(
                        "error",
                        kind,
                        None,
                        f"{counted(len(pairs), 'image')} of {first} {'is' if len(pairs) == 1 else 'are'} also in "
                        f"{second}: {how}",
                        f"take them out of {first} or of {second}, else scores on one tell of memory and not of skill",
                        tuple(f"{one} = {other}" for one, other in pairs),
                    )
                )
    for split, images in known.items():
        groups: dict[bytes, list[str]] = {}
        for name, mark in images:
            groups.setdefault(mark.content, []).append(name)
        twice = tuple(" = ".join(names) for names in groups.values() if len(names) > 1)
        if twice:
            findings.append(
                Finding(
                    "warning",
                    "repeated-image",
                    split,
                    f"{counted(len(twice), 'image')} occur{'s' * (len(twice) == 1)} more than once",
                    "keep one of each, else it counts more than the others, or its masks contradict each other",
                    twice,
                )
            )
    return findings


def _equal_pairs(
    ours: Sequence[tuple[str, Fingerprint]], theirs: Sequence[tuple[str, Fingerprint]]
) -> list[tuple[str, str]]:
    by_content = {mark.content: name for name, mark in theirs}
    return [(name, by_content[mark.content]) for name, mark in ours if mark.content in by_content]


def _alike_pairs(
    ours: Sequence[tuple[str, Fingerprint]], theirs: Sequence[tuple[str, Fingerprint]]
) -> Iterator[tuple[str, str]]:
    hashes = np.array([mark.difference_hash for _, mark in theirs], dtype=np.uint64)
    for name, mark in ours:
        distances = np.bitwise_count(hashes ^ np.uint64(mark.difference_hash))
        for index in np.flatnonzero(distances <= LARGEST_DISTANCE):
            other, candidate = theirs[int(index)]
            if _look_alike(mark.thumbnail.astype(np.float64), candidate.thumbnail.astype(np.float64)):
                yield name, other


def _look_alike(one: np.ndarray, other: np.ndarray) -> bool:
    """The hash alone would take any two flat images for the same; their thumbnails decide."""
    if np.abs(one - other).mean() > LARGEST_DIFFERENCE:
        return False
    return bool(np.corrcoef(one, other)[0, 1] >= LEAST_CORRELATION)
