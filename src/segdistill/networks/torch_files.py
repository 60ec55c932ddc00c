"""Files of torch.save: their tensors and plain values; every other object is left out, so no code of theirs runs."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from segdistill.errors import UserError, reason

_HARMLESS = (argparse.Namespace, pathlib.PosixPath, pathlib.PurePosixPath)
"""Classes that torch may build while it reads tensors: settings that programs keep beside them."""

_BROKEN = (RuntimeError, EOFError, pickle.UnpicklingError, OSError, ValueError)

_TEXTS = {
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself; fetch it with: git lfs pull",
    b"<": "a page of HTML or XML, as a download that failed leaves it",
    b"{": "text",
}
"""What stands where the weights should be, by its first bytes."""


class LeftOut:
    """Stands for an object of a file that is neither tensor nor plain value, such as a program's settings.

    Whatever the file says of the object is dropped.
    """

    name = ""

    def __new__(cls, *given: object, **named: object) -> LeftOut:
        """Make one without looking at what is given."""
        return super().__new__(cls)

    def __init__(self, *given: object, **named: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        """Drop what the object held."""


def read_torch_file(file: Path) -> tuple[Any, list[str]]:
    """What a file of torch.save holds, and the names of the classes whose objects were left out.

    Raises:
        UserError: damaged, no file of torch.save, or only readable by running code in it.
    """
    try:
        names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(file)))
    except (*_BROKEN, AssertionError) as error:
        if "torchscript" in str(error):
            raise holds_code(file, "a TorchScript program") from None
        names = []  # of a format before torch 1.6, or damaged, which is told below
    try:
        with _allowed(names):
            return torch.load(file, map_location="cpu", weights_only=True), names
    except (*_BROKEN, TypeError, AssertionError) as error:
        text = str(error)
        if "PytorchStreamReader" in text or "Weights only" not in text or "Unsupported operand" in text:
            no_pickle = "Unsupported operand" in text
            what = "it does not begin as one" if no_pickle else reason(error) if text else "it ends too early"
            raise UserError(f"weights file {file} is damaged, or no file of torch.save: {what}") from error
        named = re.search(r"GLOBAL (\S+)", text)
        classes = [named[1]] if named else names
        raise holds_code(file, f"objects of the class {', '.join(classes[:3]) or 'unknown'}") from error


def holds_code(file: Path, what: str) -> UserError:
    """The error for a file whose weights cannot be had without running code in it."""
    return UserError(
        f"weights file {file} holds {what}, not only tensors, and reading those could run code of whoever made "
        "it; where the file was made, save only the weights: torch.save(model.state_dict(), FILE)"
    )


def refuse_text(file: Path) -> None:
    """Refuse a file that is a text where weights should be.

    Raises:
        UserError: what it is.
    """
    with file.open("rb") as stream:
        beginning = stream.read(64)
    for first, what in _TEXTS.items():
        if beginning.lstrip().startswith(first):
            raise UserError(f"weights file {file} is {what}")


@contextmanager
def _allowed(names: list[str]) -> Iterator[None]:
    """Within, torch builds harmless objects, and a `LeftOut` in place of any object of the classes ``names``."""
    stand_ins: list[Any] = [(type("LeftOut", (LeftOut,), {"name": name}), name) for name in names]
    with torch.serialization.safe_globals([*_HARMLESS, *stand_ins]):
        yield
