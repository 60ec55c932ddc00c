"""An exported file as prediction sees it: class scores of windows of any size up to its own."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from segdistill.errors import UserError, reason
from segdistill.files import digest
from segdistill.formats.about import About
from segdistill.formats.agreement import File, Form
from segdistill.formats.choosing import all_formats, format_of
from segdistill.formats.format import Format


class ExportedModel:
    """An exported file, ready to score windows on the CPU.

    Args:
        path: a file of a built-in format or of one that an installed package adds. An ``.xml`` file has its ``.bin``
            beside it; a ``.pt2`` file may run code of whoever made it.

    Attributes:
        about: the file's own metadata.
        identity: hash of the file, or both of them.

    Raises:
        UserError: no such file, not a model, not made by segdistill or by a newer version of it, or damaged.
    """

    def __init__(self, path: Path) -> None:
        kind = format_of(path)
        if kind is None:
            raise UserError(
                f"model {path} is a file that ends in '{path.suffix}'; expected the folder of a run, or an exported "
                f"file, {', '.join(known.suffix for known in all_formats())}"
            )
        if not (path.is_dir() if kind.folder else path.is_file()):
            raise UserError(f"model {path} does not exist")
        self.path = path
        self._file = _opened(path, kind)
        self.about = About.from_metadata(self._file.metadata(), str(path))
        self.identity = digest(path, *([path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else []))

    def __call__(self, images: Tensor) -> Tensor:
        """Class scores before any softmax.

        Args:
            images: (B, C, H, W), uint8 in 0..255, or float32 where the file takes that. Of a file of fixed size no
                side may be longer than its own: what is shorter is padded by its last row and column.

        Returns:
            (B, K, H, W), float32.

        Raises:
            UserError: floating images for a file that takes uint8, or images too large for a file of fixed size.
        """
        form, (height, width) = self.about.form, images.shape[-2:]
        if self.about.dtype == "uint8" and images.dtype != torch.uint8:
            raise UserError(f"model {self.path} takes images of 8 bits; predict with the run itself for any other")
        if self.about.dtype == "float32" and images.dtype == torch.uint8:
            images = images.float() / 255
        if form.size is not None:
            if height > form.size[0] or width > form.size[1]:
                raise UserError(
                    f"a window of {width} x {height} pixels is too large for {self.path}, which takes "
                    f"{form.size[1]} x {form.size[0]}; choose --window {min(form.size)} or less"
                )
            images = _lengthened(_lengthened(images, 2, form.size[0]), 3, form.size[1])
        return run_file(self._file, form, images)[..., :height, :width]


def run_file(file: File, form: Form, images: Tensor) -> Tensor:
    """Class scores of a file before any softmax.

    Args:
        file: it.
        form: of the file.
        images: (B, C, H, W) of the file's dtype, and of its size where it has one; any number of them.

    Returns:
        float32 (B, K, H, W).
    """
    height, width = images.shape[-2:]
    found = []
    for part in torch.split(images, form.batch or len(images)):
        whole = part if form.batch is None else _lengthened(part, 0, form.batch)
        scores = torch.from_numpy(file.logits(form.pack(whole)))
        found.append(scores[: len(part), :, :height, :width])
    return torch.cat(found)


def _lengthened(images: Tensor, axis: int, length: int) -> Tensor:
    """The last entry along an axis, again and again up to ``length``."""
    there = images.shape[axis]
    return images if there == length else images.index_select(axis, torch.arange(length).clamp(max=there - 1))


def _opened(path: Path, kind: Format) -> File:
    if path.suffix.lower() == ".xml" and not path.with_suffix(".bin").is_file():
        raise UserError(f"model {path} lacks its weights: {path.with_suffix('.bin').name} is not beside it")
    try:
        return kind.open(path)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # each library has its own errors
        raise UserError(
            f"model {path} cannot be read, it is damaged or no {path.suffix} model: {reason(error)}"
        ) from None
