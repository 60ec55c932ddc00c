"""What every data set is: images, label maps, and the names and colours of the classes."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from torch.utils.data import Dataset

from segdistill.colors import default_palette, parse_palette
from segdistill.errors import UserError

IGNORE_INDEX = 255
"""The label of pixels that count nowhere: not in losses, not in metrics."""

UNLABELLED = 254
"""The label of pixels that nobody has labelled, in training alone: a teacher teaches there, the task loss is silent."""


class Window(NamedTuple):
    """A rectangle of an image, in pixels.

    Example:
        >>> import torch
        >>> Window(top=1, left=0, height=1, width=2).cut(torch.tensor([[1, 2, 3], [4, 5, 6]]))
        tensor([[4, 5]])
    """

    top: int
    left: int
    height: int
    width: int

    def cut(self, values: Tensor) -> Tensor:
        """This part of ``values`` (..., H, W), as a view of them."""
        return values[..., self.top : self.top + self.height, self.left : self.left + self.width]


class Sample(ABC):
    """One image and its labels, of which any part can be read."""

    @property
    @abstractmethod
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""

    @abstractmethod
    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        """A part of the sample.

        Args:
            window: lies inside the image.

        Returns:
            image: uint8 or float32 (C, h, w).
            labels: int64 (h, w).
        """

    def whole(self) -> tuple[Tensor, Tensor]:
        """All of the sample."""
        return self.window(Window(0, 0, *self.size))


class LoadedSample(Sample):
    """A sample that lies in memory: parts are cut from it.

    Args:
        image: (C, H, W).
        labels: (H, W).
    """

    def __init__(self, image: Tensor, labels: Tensor) -> None:
        self.image = image
        self.labels = labels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[-2], self.image.shape[-1]

    def window(self, window: Window) -> tuple[Tensor, Tensor]:
        """Features of the tensors, not copies."""
        return window.cut(self.image), window.cut(self.labels)


class SegmentationDataset(Dataset[tuple[Tensor, Tensor]], ABC):
    """Images with one class label per pixel.

    A data set of your own subclasses this, names its samples, and writes ``__getitem__``. One of images too large to be
    read for every crop also writes ``open``, which training and evaluation go through, and sets the attributes
    ``crops_per_image`` and ``evaluation_window``.

    Args:
        classes: names of the K classes, in the order of their labels 0..K-1; 2 to 254 of them.
        ids: one name per sample, in order.
        palette: one colour per class for pictures, as (red, green, blue) or ``"#rrggbb"``; chosen if not
            given.
        in_channels: channels of the images.

    Attributes:
        classes, ids, palette, in_channels: as given.
        ignore_index: the label of pixels that count nowhere, 255.
        crops_per_image: training samples that an epoch takes from each image, 1 by default.
        evaluation_window: longest side, in pixels, of what goes through a network at once in evaluation; larger images
            go through in overlapping windows. None, the default: images of up to 2048 pixels a side go through whole,
            larger ones in windows of 1024.
        resize: (height, width) to which images and masks are resized on reading; None, the default: they keep their
            size.
        bands: which bands of the files are the channels, the first being 1; None, the default: red, green and blue.
        fill: what padding shows, one number per channel in the images' own unit; None, the default: mean grey in uint8
            images, 0 in float32 ones.
        unlabelled_index: the label of pixels that nobody has labelled, `UNLABELLED`; None, the default: there are none.

    Raises:
        UserError: fewer than 2 or more than 254 classes, a class named twice, or a palette that does not fit
            them.

    Example:
        >>> import torch
        >>> class Halves(SegmentationDataset):
        ...     def __init__(self) -> None:
        ...         super().__init__(classes=("dark", "bright"), ids=("one", "two"))
        ...
        ...     def __getitem__(self, index: int):
        ...         image = torch.zeros(3, 4, 6, dtype=torch.uint8)
        ...         image[..., 3:] = 200
        ...         return image, (image[0] > 100).long()
        >>> image, labels = Halves()[0]
        >>> labels[0].tolist()
        [0, 0, 0, 1, 1, 1]
    """

    #: What the object was made with, by name, so that a recipe can write it down.
    arguments: dict[str, Any] | None = None

    crops_per_image: int = 1
    evaluation_window: int | None = None
    resize: tuple[int, int] | None = None
    bands: tuple[int, ...] | None = None
    fill: tuple[float, ...] | None = None
    unlabelled_index: int | None = None

    def __init__(
        self,
        *,
        classes: Sequence[str],
        ids: Sequence[str],
        palette: Sequence[str | Sequence[int]] | None = None,
        in_channels: int = 3,
    ) -> None:
        self.classes = _checked_classes(classes)
        self.palette = default_palette(len(classes)) if palette is None else parse_palette(palette, self.classes)
        self.ids = tuple(ids)
        self.ignore_index = IGNORE_INDEX
        self.in_channels = in_channels

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "__init__" in vars(cls):
            cls.__init__ = _keeping_arguments(cls.__init__)  # type: ignore[method-assign]

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """One sample.

        Returns:
            image: uint8 (C, H, W) in 0..255, or float32 (C, H, W) in a unit of its own.
            labels: int64 (H, W), values 0..K-1 or ``ignore_index``.
        """

    def open(self, index: int) -> Sample:
        """One sample, to read parts of; here all of it is read, and data sets of large files read only the part."""
        return LoadedSample(*self[index])

    def labels(self, index: int) -> Tensor:
        """The label map of one sample alone, int64 (H, W); data sets of files read no image for it."""
        return self[index][1]

    def scored(self, index: int) -> tuple[Tensor, Tensor] | None:
        """A sample as it is scored, where that is kept; None, the default: it is read from its files.

        Returns:
            image: resized to ``resize``, uint8 or float32 (C, h, w).
            labels: uint8 (H, W), at the size of their file.
        """
        return None

    def files(self, index: int) -> tuple[Path, ...]:
        """The files that a sample is made of, its image first; none where it is made of something else."""
        return ()

    def pixel_type(self) -> str:
        """The type of the pixels in the image files, numpy's name such as ``"uint8"`` or ``"uint16"``."""
        image, _ = self.open(0).window(Window(0, 0, 1, 1))
        return str(image.dtype).removeprefix("torch.")

    def take_attributes(self, dataset: SegmentationDataset) -> None:
        """Take over the attributes of ``dataset``, whose samples are shown here."""
        for name in (
            "ignore_index",
            "unlabelled_index",
            "crops_per_image",
            "evaluation_window",
            "resize",
            "bands",
            "fill",
        ):
            setattr(self, name, getattr(dataset, name))

    def at_own_size(self) -> SegmentationDataset:
        """The same samples at the size of their files, whatever ``resize``: what scores are taken of."""
        return self.at_size(None)

    def at_size(self, resize: tuple[int, int] | None) -> SegmentationDataset:
        """The same samples, resized to ``resize`` (height, width) on reading; None: at the size of their files.

        Only for data sets that resize: of one whose ``resize`` is None, other sizes are not asked for.
        """
        if self.resize == resize:
            return self
        other = copy.copy(self)
        other.resize = resize
        return other


def _keeping_arguments(init: Callable[..., None]) -> Callable[..., None]:
    """``__init__`` that notes what it is called with, and says which argument is of the wrong type where it fails.

    Only the outermost one does: it calls those of the base classes.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def noting(self: SegmentationDataset, *given: Any, **named: Any) -> None:
        if self.arguments is not None:
            return init(self, *given, **named)
        with contextlib.suppress(TypeError):  # which __init__ itself is about to raise
            self.arguments = dict(list(signature.bind(self, *given, **named).arguments.items())[1:])
        try:
            return init(self, *given, **named)
        except (AttributeError, IndexError, TypeError):
            if self.arguments is not None:
                from segdistill.arguments import refuse_wrong_types  # its parser takes long to import

                refuse_wrong_types(type(self), self.arguments)
            raise

    return noting


def _checked_classes(classes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"classes must be a list of names, found {classes!r}")
    names = tuple(classes)
    if not 2 <= len(names) <= UNLABELLED:
        raise UserError(
            f"classes names {len(names)} ({', '.join(names[:3])}); expected 2 to {UNLABELLED}, "
            "the background being a class too"
        )
    blank = next((label for label, name in enumerate(names) if not name.strip()), None)
    if blank is not None:
        raise UserError(f"classes has no name for the class {blank}; expected a name for each")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"classes names '{twice[0]}' more than once")
    return names
