"""The device that a name means on this machine."""

from __future__ import annotations

import torch

from segdistill.errors import UserError


def choose_device(device: str) -> torch.device:
    """The device that ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"`` means on this machine.

    Raises:
        UserError: if there is no such device here.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device '{device}' is not available here; expected auto, cpu, cuda, cuda:N or mps"
        ) from error
    return chosen
