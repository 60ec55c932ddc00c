"""Checks of the images and labels of a batch."""

from __future__ import annotations

from typing import overload

from torch import Tensor

from segdistill.errors import UserError


@overload
def checked_labels(images: Tensor, labels: Tensor, classes: int, ignore: int, unlabelled: int | None) -> Tensor: ...
@overload
def checked_labels(
    images: Tensor, labels: Tensor | None, classes: int, ignore: int, unlabelled: int | None
) -> Tensor | None: ...
def checked_labels(
    images: Tensor, labels: Tensor | None, classes: int, ignore: int, unlabelled: int | None
) -> Tensor | None:
    """Labels as int64, after a check of their shape and values.

    Args:
        images: (B, C, H, W).
        labels: integers (B, H, W), or None.
        classes: labels from 0 to below this are classes.
        ignore, unlabelled: the other labels that may occur; ``unlabelled`` may be None.

    Raises:
        UserError: for labels of another size or kind, or, on a CPU, of another value.
    """
    for what, given in (("images", images), ("labels", labels)):
        if given is not None and not isinstance(given, Tensor):
            raise UserError(f"{what} are a {type(given).__name__}, expected a torch tensor")
    if labels is None:
        return None
    if labels.is_floating_point():
        raise UserError(f"labels are {labels.dtype}, expected integers")
    _check_labels(images, labels, classes, [label for label in (ignore, unlabelled) if label is not None])
    return labels.long()


def _check_labels(images: Tensor, labels: Tensor, classes: int, special: list[int]) -> None:
    if labels.shape != (len(images), *images.shape[-2:]):
        raise UserError(
            f"labels have shape {tuple(labels.shape)}, expected {(len(images), *images.shape[-2:])} "
            f"for images of shape {tuple(images.shape)}"
        )
    # On a GPU a look at the values would make it wait; the command line has checked its data beforehand.
    if labels.device.type == "cpu":
        outside = (labels < 0) | (labels >= classes)
        for label in special:
            outside &= labels != label
        if outside.any():
            raise UserError(
                f"labels hold the values {sorted(set(labels[outside].tolist()))[:8]}, expected 0 to {classes - 1}, or "
                f"{special[0]} for ignored pixels"
            )
