"""Whether an exported file says what the network says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from segdistill.formats.deployable import Layout, Outputs
from segdistill.networks.network import Network

LEAST_EQUAL_LABELS = 0.9999
"""Share of the pixels that must have the network's label: rounding may decide a tie otherwise, and no more."""

LARGEST_DIFFERENCE = 0.01
"""Of the class scores, as a part of their standard deviation; and of the probabilities."""

LEAST_EQUAL_LABELS_IN_HALF, LARGEST_DIFFERENCE_IN_HALF = 0.99, 0.1
"""The same of a file in half precision, which keeps 11 bits of each number."""


class File(Protocol):
    """An exported file, ready to run."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The prediction for a batch of images: labels, integers (B, H, W), or probabilities in the images' layout."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """The class scores on its way, float32 (B, K, H', W'); they may go over the images' lower and right edge."""

    def metadata(self) -> dict[str, str]:
        """What was written into it when it was made; empty in a file of another origin."""


@dataclass(frozen=True)
class Form:
    """What goes into a file and what comes out.

    Attributes:
        layout: of the images.
        outputs: labels or probabilities.
        size: (height, width) of the images; None: any.
        batch: number of images; None: any.
    """

    layout: Layout
    outputs: Outputs
    size: tuple[int, int] | None
    batch: int | None

    def pack(self, images: Tensor) -> np.ndarray:
        """Images (B, C, H, W) as the file wants them."""
        packed = images.permute(0, 2, 3, 1) if self.layout == "nhwc" else images
        return packed.contiguous().numpy()

    def labels(self, prediction: np.ndarray) -> Tensor:
        """The class ids in what the file said, int64 (B, H, W)."""
        found = torch.from_numpy(np.asarray(prediction))
        return found.long() if self.outputs == "labels" else found.argmax(-1 if self.layout == "nhwc" else 1)


@dataclass(frozen=True)
class Agreement:
    """How near a file comes to its network.

    Attributes:
        images: number of images that were compared.
        sizes: their distinct sizes, (height, width).
        largest_logit_difference: between two class scores of one pixel.
        logit_deviation: standard deviation of the network's class scores, to see that difference in proportion.
        largest_probability_difference: of what the file puts out; None where it puts out labels.
        equal_labels: share of the pixels with the same label, 0 to 1.
        half: whether the file computes in half precision.
    """

    images: int
    sizes: tuple[tuple[int, int], ...]
    largest_logit_difference: float
    logit_deviation: float
    largest_probability_difference: float | None
    equal_labels: float
    half: bool = False

    @property
    def least_equal_labels(self) -> float:
        """The share of the pixels that must have the network's label."""
        return LEAST_EQUAL_LABELS_IN_HALF if self.half else LEAST_EQUAL_LABELS

    @property
    def is_close(self) -> bool:
        """Whether nothing but rounding differs; not for anything that is not a number."""
        largest = LARGEST_DIFFERENCE_IN_HALF if self.half else LARGEST_DIFFERENCE
        return (
            self.equal_labels >= self.least_equal_labels
            and self.largest_logit_difference <= largest * self.logit_deviation
            and (self.largest_probability_difference or 0.0) <= largest
        )

    def __str__(self) -> str:
        return (
            f"equal labels {100 * self.equal_labels:.4f} %, largest difference of logits "
            f"{self.largest_logit_difference:.2g} (their standard deviation is {self.logit_deviation:.2g})"
        )


def compare(network: Network, file: File, form: Form, images: Sequence[Tensor], *, half: bool = False) -> Agreement:
    """Runs network and file on the same images, one after another.

    Args:
        network: in eval mode, on the CPU.
        file: made from it.
        form: of the file.
        images: (C, H, W) each, of the file's size where it has one.
        half: whether the file computes in half precision.
    """
    equal = pixels = 0
    difference, probability_difference = 0.0, 0.0
    spread: list[Tensor] = []
    for image in images:
        batch = image[None].repeat(form.batch or 1, 1, 1, 1)
        with torch.no_grad():
            expected = network(batch)
        height, width = expected.shape[-2:]
        packed = form.pack(batch)
        prediction = file(packed)
        logits = torch.from_numpy(file.logits(packed))[..., :height, :width]
        difference = _worse(difference, (logits - expected).abs().max())
        if form.outputs == "probabilities":
            found = torch.from_numpy(prediction)
            found = found.permute(0, 3, 1, 2) if form.layout == "nhwc" else found
            probability_difference = _worse(probability_difference, (found - expected.softmax(1)).abs().max())
        same = form.labels(prediction) == expected.argmax(1)
        equal, pixels = equal + int(same.sum()), pixels + same.numel()
        spread.append(expected.std())
    return Agreement(
        images=len(images),
        sizes=tuple(sorted({(image.shape[1], image.shape[2]) for image in images})),
        largest_logit_difference=difference,
        logit_deviation=float(torch.stack(spread).mean()),
        largest_probability_difference=probability_difference if form.outputs == "probabilities" else None,
        equal_labels=equal / pixels,
        half=half,
    )


def _worse(so_far: float, found: Tensor) -> float:
    # max() would drop a NaN.
    return float(torch.maximum(torch.tensor(so_far), found))
