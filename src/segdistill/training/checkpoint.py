"""Checkpoints of a run: written whole or not at all, the one before kept, damaged and foreign ones told apart."""

from __future__ import annotations

import os
import zipfile
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
    """The newest usable checkpoint at ``path``; None if there is none yet.

    If it is damaged or foreign, a warning names it and the one before is taken instead.

    Raises:
        UserError: if there are some and none can be used, or if one is of another version.
    """
    faults: list[str] = []
    for candidate in (path, earlier(path)):
        if not candidate.exists():
            continue
        try:
            state = _read(candidate)
        except Exception:  # torch raises errors of many kinds, most of them on pickle's innards
            faults.append(f"{candidate} is damaged")
            continue
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            faults.append(f"{candidate} is no checkpoint of a segdistill run")
            continue
        if state["format"] != FORMAT:
            raise UserError(
                f"checkpoint {candidate} has format {state['format']}, and this version reads {FORMAT}; "
                "resume with the version that wrote it, or start over with --overwrite"
            )
        if faults:
            console.out(f"checkpoint {faults[0]}; continuing from the one before", highlight=False)
        return state
    if faults:
        raise UserError(
            f"checkpoint {', and '.join(faults)}: there is nothing to resume from; start over with --overwrite"
        )
    return None


def _read(path: Path) -> Any:
    """What ``torch.save`` wrote, checked against the archive's own sums: torch's reader lets a changed byte pass."""
    with zipfile.ZipFile(path) as archive:
        spoilt = archive.testzip()
    if spoilt is not None:
        raise zipfile.BadZipFile(spoilt)
    return torch.load(path, map_location="cpu", weights_only=True)
