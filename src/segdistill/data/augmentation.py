"""Random scale, crop, flips, quarter turns and colour, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask

from segdistill.data.mixing import Mixing, checked_mix
from segdistill.data.seeding import keyed_generator
from segdistill.data.strong import GREY, StrongChange, check_strong
from segdistill.datasets.base import Window
from segdistill.errors import UserError

# The ImageNet mean in grey levels: what networks see as zero after normalisation.
PADDING = (124, 116, 104)


class Augmentation:
    """Changes a training sample at random, but the same way for the same key.

    A window is cut out of the image and brought to the size of ``crop``: scaled by a factor drawn uniformly
    from ``scale``, mirrored, turned. Where the scaled image is smaller than the crop it lies at a random
    place in it, surrounded by mean grey in the image and the ignore label in the mask. The window is cut
    before it is resized, so that no pixel is resized in vain.

    Args:
        crop: (height, width) of the result; ``None`` keeps each image's own size (scaling and padding inside
            it).
        scale: smallest and largest scale factor.
        flip: mirror left and right, half of the time.
        vertical_flip: mirror top and bottom, half of the time: for images without an up, such as aerial ones.
        quarter_turns: turn by 0, 90, 180 or 270 degrees: for images without an up.
        jitter: brightness, contrast and saturation each change by a factor drawn from 1 - jitter to 1 +
            jitter; hue stays. Images of other than 3 channels, or of float32, are left alone.
        mix: probability that a sample is mixed with another one, for each kind of mixing: {cutmix: 0.5, classmix: 0.25,
            mixup: 0.25}; together at most 1. `TrainingSamples` mixes, since it takes two samples.
        strong: how far colours change beyond that, 0 to 1, see `StrongChange`; uint8 images alone.
        ignore_index: the label of padding.

    Raises:
        UserError: an argument out of its range.

    Example:
        >>> image = torch.zeros(3, 227, 320, dtype=torch.uint8)
        >>> mask = torch.zeros(227, 320, dtype=torch.int64)
        >>> augmentation = Augmentation(crop=(160, 224), jitter=0.3)
        >>> image, mask = augmentation(image, mask, key=(0, 3, 17))
        >>> image.shape, mask.shape
        (torch.Size([3, 160, 224]), torch.Size([160, 224]))
    """

    def __init__(
        self,
        crop: Sequence[int] | None,
        scale: Sequence[float] = (0.5, 2.0),
        flip: bool = True,
        vertical_flip: bool = False,
        quarter_turns: bool = False,
        jitter: float = 0.0,
        mix: dict[str, float] | None = None,
        strong: float = 0.0,
        ignore_index: int = 255,
    ) -> None:
        if crop is not None and (len(crop) != 2 or min(crop) < 1 or max(crop) < 2):
            raise UserError(f"crop is {crop!r}; expected [height, width] in pixels, more than one in all")
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale is {scale!r}; expected [smallest, largest], both above 0")
        if not 0 <= jitter < 1:
            raise UserError(f"jitter is {jitter}; expected 0 to less than 1")
        self.crop = None if crop is None else (crop[0], crop[1])
        self.scale = (scale[0], scale[1])
        self.flip = flip
        self.vertical_flip = vertical_flip
        self.quarter_turns = quarter_turns
        self.jitter = jitter
        self.mix = checked_mix(mix)
        if self.mix and crop is None:
            raise UserError("mix needs crop: images are mixed where they are of one size")
        self.strong = check_strong(strong)
        self.ignore_index = ignore_index

    def __call__(
        self, image: Tensor, mask: Tensor, key: tuple[int, int, int], fill: Sequence[float] | None = None
    ) -> tuple[Tensor, Tensor]:
        """One view of a sample.

        Args:
            image: uint8 or float32 (C, H, W).
            mask: int64 (H, W).
            key: (seed, epoch, index); equal keys give equal views, in every process and for every order of
                calls.
            fill: what padding shows in the image; by default :func:`padding_color`.

        Returns:
            image: (C, h, w), of the same type.
            mask: int64 (h, w), where (h, w) is ``crop``.
        """
        view = self.view((image.shape[-2], image.shape[-1]), key)
        return view.apply(view.window.cut(image), view.window.cut(mask), fill)

    def view(self, size: tuple[int, int], key: tuple[int, int, int]) -> View:
        """What a view of a sample shows and how, before a pixel of it is read.

        Args:
            size: (height, width) of the image.
            key: as in calling.
        """
        # All numbers are drawn whatever is switched on, so that switching jitter on moves no crop.
        draw = torch.rand(10, generator=keyed_generator(*key), dtype=torch.float64).tolist()
        turns = int(draw[0] * 4) if self.quarter_turns else 0
        height, width = self.crop or size
        target = (width, height) if turns % 2 else (height, width)
        factor = self.scale[0] + draw[1] * (self.scale[1] - self.scale[0])
        starts, lengths, scaled = [], [], []
        for full, wanted, place in zip(size, target, draw[2:4], strict=True):
            length = min(full, max(1, round(wanted / factor)))
            starts.append(int(place * (full - length + 1)))
            lengths.append(length)
            scaled.append(min(wanted, max(1, round(full * factor))))
        brightness, contrast, saturation = (1 + self.jitter * (2 * number - 1) for number in draw[4:7])
        return View(
            window=Window(starts[0], starts[1], lengths[0], lengths[1]),
            scaled=(scaled[0], scaled[1]),
            target=target,
            place=(draw[2], draw[3]),
            jitter=(brightness, contrast, saturation) if self.jitter > 0 else None,
            flip=self.flip and draw[7] < 0.5,
            vertical_flip=self.vertical_flip and draw[8] < 0.5,
            turns=turns,
            ignore_index=self.ignore_index,
            strong=StrongChange.draw(self.strong, key) if self.strong else None,
        )

    def mixing(self, key: tuple[int, int, int]) -> Mixing | None:
        """How a sample is mixed with another one; None where it is not.

        Args:
            key: as in calling.
        """
        return Mixing.draw(self.mix, key, self.ignore_index)


@dataclass(frozen=True)
class View:
    """One decided view of a sample: the window that it needs, and what becomes of it.

    Attributes:
        window: the part of the image that is shown.
        scaled: (height, width) that the window is resized to.
        target: (height, width) that the result is padded to, before it is turned.
        place: where the window lies in the padding, 0 (top, left) to 1.
        jitter: factors of brightness, contrast and saturation; None: colours stay.
        flip: mirror left and right.
        vertical_flip: mirror top and bottom.
        turns: quarter turns.
        ignore_index: the label of padding.
        factor: the image is shown at so many times ``scaled`` and ``target``; the labels are not.
        strong: a further change of colours; None: none.
    """

    window: Window
    scaled: tuple[int, int]
    target: tuple[int, int]
    place: tuple[float, float]
    jitter: tuple[float, float, float] | None
    flip: bool
    vertical_flip: bool
    turns: int
    ignore_index: int
    factor: int = 1
    strong: StrongChange | None = None

    def closer(self, factor: int, *, read_larger: bool) -> View:
        """The same view with its image at ``factor`` times the size, for a teacher that looks closer.

        The labels stay as they are, and each of their pixels lies under ``factor`` x ``factor`` pixels of the image.

        Args:
            factor: at least 1.
            read_larger: whether the sample is read at ``factor`` times the size that the view was decided for.
        """
        window = Window(*(factor * length for length in self.window)) if read_larger else self.window
        return replace(self, window=window, factor=factor)

    def apply(self, image: Tensor, mask: Tensor, fill: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """The view, from what ``window`` cuts out of the sample.

        Args:
            image: uint8 or float32 (C, window height, window width).
            mask: int64 (window height, window width).
            fill: what padding shows in the image; by default :func:`padding_color`.

        Returns:
            image: (C, factor x h, factor x w), of the same type.
            mask: int64 (h, w).
        """
        # NEAREST_EXACT, since NEAREST would shift labels by up to half a pixel against the bilinear image.
        size = [self.factor * side for side in self.scaled]
        pixels = F.resize(Image(image), size, InterpolationMode.BILINEAR, antialias=True)
        # As an image first: older torchvision resizes a mask by NEAREST whatever it is told.
        labels = Mask(F.resize(mask[None], list(self.scaled), InterpolationMode.NEAREST_EXACT)[0])
        if self.jitter is not None and pixels.shape[0] == 3 and pixels.dtype == torch.uint8:
            pixels = _jittered(pixels, *self.jitter)
        if self.strong is not None:
            pixels = self.strong(pixels, self.factor)
        pixels, labels = self._padded(pixels, labels, fill)
        if self.flip:
            pixels, labels = F.horizontal_flip(pixels), F.horizontal_flip(labels)
        if self.vertical_flip:
            pixels, labels = F.vertical_flip(pixels), F.vertical_flip(labels)
        if self.turns:
            pixels, labels = pixels.rot90(self.turns, (-2, -1)), labels.rot90(self.turns, (-2, -1))
        return pixels.contiguous(), labels.contiguous()

    def _padded(self, image: Tensor, mask: Tensor, fill: Sequence[float] | None) -> tuple[Tensor, Tensor]:
        free_rows, free_columns = self.target[0] - self.scaled[0], self.target[1] - self.scaled[1]
        if not free_rows and not free_columns:
            return image, mask
        above, before = int(self.place[0] * (free_rows + 1)), int(self.place[1] * (free_columns + 1))
        margins = [before, above, free_columns - before, free_rows - above]
        color = padding_color(image.shape[0], image.dtype) if fill is None else list(fill)
        around = [self.factor * margin for margin in margins]
        return F.pad(image, around, fill=color), F.pad(mask, margins, fill=self.ignore_index)


def padding_color(channels: int, dtype: torch.dtype = torch.uint8) -> list[float]:
    """One number per channel: mean grey in uint8 images, 0 in images of a unit that only their data set knows."""
    if dtype != torch.uint8:
        return [0.0] * channels
    return [float(level) for level in PADDING] if channels == 3 else [128.0] * channels


def _jittered(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Scale the image about black, then about its mean grey, then each pixel about its own grey.

    ``v2.ColorJitter`` does the same, but takes the mean grey as a sum of floats, which depends on the number
    of threads; a view must be the same in a data-loader worker and in the main process.
    """
    weights = torch.tensor(GREY, dtype=torch.float64)
    mean = float((image.sum((-2, -1), dtype=torch.int64) * weights).sum() / image[0].numel()) * brightness
    # In place from here on: fresh memory for every step would cost up to a third more.
    pixels = image.float().mul_(brightness * contrast).add_(mean * (1 - contrast))
    grey = pixels[0] * GREY[0]
    for channel, weight in zip(pixels[1:], GREY[1:], strict=True):
        grey.add_(channel * weight)
    torch.lerp(grey.expand_as(pixels), pixels, saturation, out=pixels)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)
