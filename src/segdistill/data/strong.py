"""Colours changed far beyond what a camera does, as a pure function of (seed, view, index).

Written here and not taken from torchvision's v2. Theirs sums floats in an order that depends on the number of threads
(contrast, blur), and a view must be the same in a data-loader worker and in the main process; and it takes images of 1
or 3 channels alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.data.seeding import keyed_generator
from segdistill.errors import UserError

#: The share of red, green and blue in the grey level that an eye sees.
GREY = (0.299, 0.587, 0.114)

#: Colour differences of the same eye, turned against each other where the hue changes (YIQ), and the way back.
_CHROMA = ((0.596, -0.274, -0.322), (0.211, -0.523, 0.312))
_FROM_CHROMA = ((0.956, 0.621), (-0.272, -0.647), (-1.106, 1.703))

#: Sets these numbers apart from those of the view and of mixing with the same (seed, view, index).
_OF_COLOURS = 2

_BRIGHT = 128
"""Solarizing inverts what is at least so bright."""


@dataclass(frozen=True)
class StrongChange:
    """How the colours of one view are changed.

    Attributes:
        brightness, contrast: factors, about black and about the mean grey.
        saturation: factor about each pixel's own grey; 0 leaves no colour.
        hue: turn of the colour circle, -0.5 to 0.5; images of other than 3 channels have none.
        solarize: whether bright pixels are inverted.
        sigma: deviation of the Gaussian blur in pixels of the labels; 0: none.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    solarize: bool = False
    sigma: float = 0.0

    @staticmethod
    def draw(strength: float, key: tuple[int, int, int]) -> StrongChange:
        """How a view is changed: the distortions of SimCLR, and the solarizing of BYOL.

        Four views of five change brightness, contrast and saturation by up to 0.8 and the hue by up to 0.2 of the
        circle; a fifth loses its colour, a fifth is solarized, half are blurred with a deviation of 0.1 to 2 pixels.
        ``strength`` scales these ranges and, of the last three, how often they occur. Chen et al., "A Simple Framework
        for Contrastive Learning of Visual Representations", ICML 2020; Grill et al., "Bootstrap Your Own Latent",
        NeurIPS 2020.

        Args:
            strength: 0 to 1.
            key: (seed, view, index) of the sample.
        """
        draw = torch.rand(9, generator=keyed_generator(*key, _OF_COLOURS), dtype=torch.float64).tolist()
        jitters = draw[0] < 0.8
        factors = [1 + 0.8 * strength * (2 * number - 1) if jitters else 1.0 for number in draw[1:4]]
        return StrongChange(
            brightness=factors[0],
            contrast=factors[1],
            saturation=0.0 if draw[5] < 0.2 * strength else factors[2],
            hue=0.2 * strength * (2 * draw[4] - 1) if jitters else 0.0,
            solarize=draw[6] < 0.2 * strength,
            sigma=0.1 + 1.9 * draw[8] if draw[7] < 0.5 * strength else 0.0,
        )

    def __call__(self, image: Tensor, factor: int = 1) -> Tensor:
        """The image in other colours.

        Args:
            image: uint8 (C, H, W); of other than 3 channels, grey is their mean.
            factor: its height and width are so many times those of its labels.

        Returns:
            uint8 (C, H, W).
        """
        weights = GREY if len(image) == 3 else (1 / len(image),) * len(image)
        # Whole numbers are summed exactly, in whatever order.
        sums = image.sum((-2, -1), dtype=torch.int64).tolist()
        mean = sum(weight * level for weight, level in zip(weights, sums, strict=True)) / image[0].numel()
        pixels = image.float().mul_(self.brightness * self.contrast).add_(mean * self.brightness * (1 - self.contrast))
        pixels.clamp_(0, 255)
        if self.saturation != 1 or (self.hue and len(image) == 3):
            pixels = _recoloured(pixels, weights, self.saturation, self.hue)
        if self.solarize:
            pixels = torch.where(pixels >= _BRIGHT, 255 - pixels, pixels)
        if self.sigma:
            pixels = blurred(pixels, factor * self.sigma)
        return pixels.round_().to(torch.uint8)


def check_strong(strength: float) -> float:
    """The strength, if it is one.

    Raises:
        UserError: it is not 0 to 1.
    """
    if isinstance(strength, bool) or not 0 <= strength <= 1:
        raise UserError(f"strong is {strength}, expected a strength from 0 (colours stay) to 1")
    return float(strength)


def check_pixels(strength: float, pixels: str) -> None:
    """Refuse to change the colours of images whose range nobody knows.

    Args:
        strength: 0 to 1.
        pixels: the type of the pixels, numpy's name.

    Raises:
        UserError: they are not uint8.
    """
    if strength and pixels != "uint8":
        raise UserError(
            f"data: strong is {strength:g}, but the images hold {pixels}; expected images of 8 bits (uint8), whose "
            "values of black and white are known; leave strong out"
        )


def blurred(pixels: Tensor, sigma: float) -> Tensor:
    """The image under a Gaussian, beyond whose edges it goes on as at the edge.

    Args:
        pixels: float32 (C, H, W).
        sigma: deviation in pixels, above 0.
    """
    radius = math.ceil(3 * sigma)
    taps = [math.exp(-0.5 * (place / sigma) ** 2) for place in range(-radius, radius + 1)]
    wide = F.pad(pixels[None], (radius,) * 4, mode="replicate")[0]
    weights = [tap / sum(taps) for tap in taps]
    height, width = pixels.shape[-2:]
    rows = weighted_sum([wide[:, place : place + height] for place in range(len(taps))], weights)
    return weighted_sum([rows[..., place : place + width] for place in range(len(taps))], weights)


def weighted_sum(values: list[Tensor], weights: list[float]) -> Tensor:
    """The sum of values times weights.

    Products and sums one by one: fused, they would be rounded otherwise in some pixels than in others, depending on how
    many threads share the work.
    """
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total.add_(value * weight)
    return total


def _recoloured(pixels: Tensor, weights: tuple[float, ...], saturation: float, hue: float) -> Tensor:
    bands = list(pixels)
    grey = weighted_sum(bands, list(weights))
    if len(bands) != 3 or not hue:
        return (grey * (1 - saturation) + pixels * saturation).clamp_(0, 255)
    first, second = (weighted_sum(bands, list(row)) for row in _CHROMA)
    along, across = (saturation * turn(-2 * math.pi * hue) for turn in (math.cos, math.sin))
    turned = first * along - second * across, first * across + second * along
    return torch.stack([weighted_sum([grey, *turned], [1.0, *row]) for row in _FROM_CHROMA]).clamp_(0, 255)
