"""Backbones without a segmentation head: what all sources of them share."""

from __future__ import annotations

from segdistill.errors import UserError
from segdistill.networks.request import Request

NO_HEAD = "it is a backbone without a segmentation head"


def refuse_classes(request: Request, instead: str) -> None:
    """Refuse a backbone as a network of so many classes.

    Args:
        request: for the backbone.
        instead: a network that has a head.

    Raises:
        UserError: classes were asked for.
    """
    if request.num_classes:
        raise UserError(
            f"network '{request.spec}' can only teach its features: {NO_HEAD}, but a network of {request.num_classes} "
            f"classes is needed; a network with a head is for example {instead}"
        )


def spread(depth: int, count: int = 4) -> list[int]:
    """Spread stages evenly over the layers of a plain transformer, the last layer among them, counted from 1.

    Example:
        >>> spread(12), spread(2)
        ([3, 6, 9, 12], [1, 2])
    """
    return sorted({max(1, depth * part // count) for part in range(1, count + 1)})
