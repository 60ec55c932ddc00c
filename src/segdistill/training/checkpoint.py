"""Checkpoints of a run: written whole or not at all, the one before kept, damaged and foreign ones told apart."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import torch
from rich.console import Console

from segdistill.errors import UserError
from segdistill.files import write_atomically

#: Changes when an older checkpoint could not be read any more.
FORMAT = 1

_KEYS = {"format", "epoch", "batch", "step", "learner", "optimizer"}


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Puts ``state`` at ``path``; what was there becomes the one before.

    Whenever a kill comes, one whole checkpoint at least is left.

    Raises:
        UserError: if it cannot be written, e.g. for want of space; both old ones stay.
    """

    def write(file: IO[bytes]) -> None:
        try:
            torch.save({"format": FORMAT, **state}, file)
        except RuntimeError as error:  # what torch makes of an OSError in the midst of its archive
            raise OSError(f"no space left, or no longer writable ({error})") from error

    fresh = path.with_name(f"next{path.suffix}")
    write_atomically(fresh, write)
    if path.exists():
        os.replace(path, earlier(path))
    os.replace(fresh, path)


def earlier(path: Path) -> Path:
    """Where the checkpoint before the one at ``path`` lies."""
    return path.with_name(f"previous{path.suffix}")


def load_checkpoint(path: Path, console: Console) -> dict[str, Any] | None:
    """The newest whole checkpoint at ``path``; None if there is none yet.

    A damaged one is told of and the one before taken instead.

    Raises:
        UserError: if all that there are are damaged, or are no checkpoints of this version.
    """
    damaged: list[Path] = []
    for candidate in (path, earlier(path)):
        if not candidate.exists():
            continue
        try:
            state = torch.load(candidate, map_location="cpu", weights_only=True)
        except Exception:  # torch raises errors of many kinds, most of them on pickle's innards
            damaged.append(candidate)
            continue
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            raise UserError(f"{candidate} is no checkpoint of a segdistill run; start over with --overwrite")
        if state["format"] != FORMAT:
            raise UserError(
                f"checkpoint {candidate} has format {state['format']}, and this version reads {FORMAT}; "
                "resume with the version that wrote it, or start over with --overwrite"
            )
        if damaged:
            console.out(f"checkpoint {damaged[0]} is damaged; going on from the one before", highlight=False)
        return state
    if damaged:
        raise UserError(f"checkpoint {damaged[0]} is damaged and cannot be resumed from; start over with --overwrite")
    return None
