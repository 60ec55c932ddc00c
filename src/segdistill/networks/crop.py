"""Which crops fit networks that take images of one size alone."""

from __future__ import annotations

from collections.abc import Mapping

from segdistill.errors import UserError

Sizes = Mapping[str, tuple[int, int] | None]
"""By the role of each network, (height, width) of the only images that it takes; None: any."""


def check_sizes(sizes: Sizes, multiple: int) -> None:
    """Check that some crop fits networks which see the same images.

    Args:
        sizes: of the networks.
        multiple: what the sides of images are padded to.

    Raises:
        UserError: none does.
    """
    for role, size in sizes.items():
        if size is not None and any(side % multiple for side in size):
            raise UserError(
                f"the {role} takes only images of {size[0]} x {size[1]} pixels, but the two networks together need "
                f"sides that {multiple} divides: no crop fits both"
            )


def check_crop(crop: tuple[int, int], sizes: Sizes, multiple: int) -> None:
    """Check that images of ``crop`` (height, width), once padded to a multiple, fit all networks.

    Args:
        crop: before padding.
        sizes: of the networks.
        multiple: what the sides of images are padded to.

    Raises:
        UserError: they do not; the sentence says which crop does.
    """
    padded = tuple(side + -side % multiple for side in crop)
    for role, size in sizes.items():
        if size is not None and size != padded:
            raise UserError(
                f"the {role} takes only images of {size[0]} x {size[1]} pixels, but these are {crop[0]} x {crop[1]}; "
                f"give crop: {list(size)}"
            )
