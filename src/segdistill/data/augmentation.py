"""Random scale, crop, flips, quarter turns and colour, as a pure function of (seed, epoch, index)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import Image, Mask

from segdistill.data.seeding import keyed_generator
from segdistill.errors import UserError

# The ImageNet mean in grey levels: what networks see as zero after normalisation.
PADDING = (124, 116, 104)
_GREY = (0.299, 0.587, 0.114)


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
            jitter; hue stays. Images of other than 3 channels are left alone.
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
        ignore_index: int = 255,
    ) -> None:
        if crop is not None and (len(crop) != 2 or min(crop) < 1):
            raise UserError(f"crop is {crop!r}; expected [height, width] in pixels")
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
        self.ignore_index = ignore_index

    def __call__(self, image: Tensor, mask: Tensor, key: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
        """One view of a sample.

        Args:
            image: uint8 (C, H, W).
            mask: int64 (H, W).
            key: (seed, epoch, index); equal keys give equal views, in every process and for every order of
                calls.

        Returns:
            image: uint8 (C, h, w).
            mask: int64 (h, w), where (h, w) is ``crop``.
        """
        # All numbers are drawn whatever is switched on, so that switching jitter on moves no crop.
        draw = torch.rand(10, generator=keyed_generator(*key), dtype=torch.float64).tolist()
        turns = int(draw[0] * 4) if self.quarter_turns else 0
        height, width = self.crop or (image.shape[-2], image.shape[-1])
        target = (width, height) if turns % 2 else (height, width)
        factor = self.scale[0] + draw[1] * (self.scale[1] - self.scale[0])

        pixels, labels = self._window(Image(image), Mask(mask), target, factor, draw[2], draw[3])
        if self.jitter > 0 and image.shape[0] == 3:
            pixels = _jittered(pixels, *(1 + self.jitter * (2 * number - 1) for number in draw[4:7]))
        pixels, labels = self._padded(pixels, labels, target, draw[2], draw[3])
        if self.flip and draw[7] < 0.5:
            pixels, labels = F.horizontal_flip(pixels), F.horizontal_flip(labels)
        if self.vertical_flip and draw[8] < 0.5:
            pixels, labels = F.vertical_flip(pixels), F.vertical_flip(labels)
        if turns:
            pixels, labels = pixels.rot90(turns, (-2, -1)), labels.rot90(turns, (-2, -1))
        return pixels.contiguous(), labels.contiguous()

    def _window(
        self, image: Tensor, mask: Tensor, target: tuple[int, int], factor: float, top: float, left: float
    ) -> tuple[Tensor, Tensor]:
        """The part of the image that the crop shows, scaled; smaller than ``target`` where the image ends."""
        starts, lengths, scaled = [], [], []
        for full, wanted, place in zip(image.shape[-2:], target, (top, left), strict=True):
            length = min(full, max(1, round(wanted / factor)))
            starts.append(int(place * (full - length + 1)))
            lengths.append(length)
            scaled.append(wanted if length < full else min(wanted, max(1, round(full * factor))))
        image = F.crop(image, *starts, *lengths)
        mask = F.crop(mask, *starts, *lengths)
        # NEAREST_EXACT, since NEAREST would shift labels by up to half a pixel against the bilinear image.
        return (
            F.resize(image, scaled, InterpolationMode.BILINEAR, antialias=True),
            F.resize(mask, scaled, InterpolationMode.NEAREST_EXACT),
        )

    def _padded(
        self, image: Tensor, mask: Tensor, target: tuple[int, int], top: float, left: float
    ) -> tuple[Tensor, Tensor]:
        free_rows, free_columns = target[0] - image.shape[-2], target[1] - image.shape[-1]
        if not free_rows and not free_columns:
            return image, mask
        above, before = int(top * (free_rows + 1)), int(left * (free_columns + 1))
        margins = [before, above, free_columns - before, free_rows - above]
        return (
            F.pad(image, margins, fill=padding_color(image.shape[0])),
            F.pad(mask, margins, fill=self.ignore_index),
        )


def padding_color(channels: int) -> list[float]:
    """Mean grey for images of so many channels, one number each."""
    return [float(level) for level in PADDING] if channels == 3 else [128.0] * channels


def _jittered(image: Tensor, brightness: float, contrast: float, saturation: float) -> Tensor:
    """Scale the image about black, then about its mean grey, then each pixel about its own grey.

    ``v2.ColorJitter`` does the same, but takes the mean grey as a sum of floats, which depends on the number
    of threads; a view must be the same in a data-loader worker and in the main process.
    """
    weights = torch.tensor(_GREY, dtype=torch.float64)
    mean = float((image.sum((-2, -1), dtype=torch.int64) * weights).sum() / image[0].numel()) * brightness
    pixels = image.float() * (brightness * contrast) + mean * (1 - contrast)
    grey = pixels[0] * _GREY[0] + pixels[1] * _GREY[1] + pixels[2] * _GREY[2]
    return torch.lerp(grey.expand_as(pixels), pixels, saturation).round_().clamp_(0, 255).to(torch.uint8)
