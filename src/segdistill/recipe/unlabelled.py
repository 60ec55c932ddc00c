"""The unlabelled images of a recipe's ``data``, which only a teacher speaks about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segdistill.arguments import construct
from segdistill.datasets import Images, SegmentationDataset
from segdistill.errors import UserError

_SHARE = 0.5


def build_unlabelled(values: Mapping[str, Any], train: SegmentationDataset) -> SegmentationDataset | None:
    """The further images that a recipe's ``data`` names, read like those of its train split; None for none."""
    given = values.get("unlabelled")
    if given is None:
        return None
    own = dict(given) if isinstance(given, Mapping) else {"root": given}
    own.pop("dataset", None)  # as `written_data` has it
    shared = {"resize": train.resize, "bands": train.bands}
    as_train = {"classes": list(train.classes)} | {
        name: list(value) for name, value in shared.items() if value is not None
    }
    unlabelled = construct(Images, as_train | own, "data.unlabelled")
    unlabelled.palette = train.palette
    return unlabelled


def unlabelled_in_batch(batch_size: int, share: float) -> int:
    """How many of ``batch_size`` images are unlabelled: ``share`` of them, rounded, and at least one of each kind.

    Raises:
        UserError: a batch of one image.

    Example:
        >>> unlabelled_in_batch(8, 0.7), unlabelled_in_batch(2, 0.9)
        (6, 1)
    """
    if batch_size < 2:
        raise UserError(
            f"train.batch_size is {batch_size}, too small for labelled and unlabelled images; expected at least 2"
        )
    return min(max(1, round(share * batch_size)), batch_size - 1)


def share_of(values: Mapping[str, Any]) -> float:
    """How much of each batch the unlabelled images of a recipe's ``data`` are.

    Raises:
        UserError: no number between 0 and 1, or a share of nothing.
    """
    share = values.get("unlabelled_share")
    left_out = "unlabelled" in values and values["unlabelled"] is None  # a recipe's images, by --data.unlabelled null
    if share is None or left_out:
        return _SHARE
    if "unlabelled" not in values:
        raise UserError("data: unlabelled_share goes with unlabelled, a folder of images; give both, or neither")
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise UserError(f"data: unlabelled_share is {share!r}, expected a number between 0 and 1")
    return float(share)


def check_unlabelled(train: SegmentationDataset, unlabelled: SegmentationDataset, share: float) -> None:
    """Refuse unlabelled images that cannot be drawn beside those of a train split.

    Raises:
        UserError: a share out of its range, other channels, or a train split without labels.
    """
    if not 0 < share < 1:
        raise UserError(f"data: unlabelled_share is {share:g}, expected a number between 0 and 1")
    if unlabelled.in_channels != train.in_channels:
        raise UserError(
            f"the unlabelled images have {unlabelled.in_channels} channels, but the training images have "
            f"{train.in_channels}; name the same bands for both"
        )
    if train.unlabelled_index is not None:
        raise UserError(
            "data: unlabelled needs a data set with labels beside it, and dataset: images has none; give all folders "
            "of images as root"
        )
