"""A first look at a network that a user names, without torch."""

from __future__ import annotations

import os

from segdistill.errors import UserError
from segdistill.plugins import entry_point_names

#: Group of entry points by which installed packages add networks.
GROUP = "segdistill.networks"


def check_there(network: str | os.PathLike[str], role: str = "model") -> None:
    """Check that a trained network can be there: that it is a folder, a file, or written like a network spec.

    Args:
        network: as a user names it.
        role: what it is called in messages.

    Raises:
        UserError: it is none of these.
    """
    text = os.fspath(network)
    if not os.path.exists(text) and ":" not in text and text.partition("?")[0] not in entry_point_names(GROUP):
        raise UserError(
            f"{role} '{text}' does not exist; expected a run folder, another folder of a trained network, or an "
            "exported file"
        )
