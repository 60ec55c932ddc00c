"""A saved network: the model's own files, and network.json with what they do not say."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError

from segdistill.errors import UserError, reason
from segdistill.files import permissions
from segdistill.networks.description import Description

if TYPE_CHECKING:
    from segdistill.networks.network import Network

CARD_FILE = "network.json"
FORMAT = 1


def save_network(network: Network, folder: Path, write: Callable[[Network, Path], None]) -> None:
    """Write the files of ``network`` to ``folder``; see `Network.save`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot save a network to {folder}: it is a file, expected a folder")
    card = {"format": FORMAT, **network.description.as_dict()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder, so that every file moves by a rename, done or not done when killed.
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            write(network, Path(temporary))
            (Path(temporary) / CARD_FILE).write_text(json.dumps(card, indent=2) + "\n")
            # The weights last: whoever finds them finds what they need beside them.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: (file.suffix != ".json", file.name)):
                os.chmod(file, permissions())  # safetensors makes its files private
                os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot save a network to {folder}: {reason(error)}") from error


def read_description(folder: Path) -> Description:
    """Read network.json in ``folder``.

    Raises:
        UserError: no such folder or file, damaged, of another format, or a key missing or of a wrong kind.
    """
    file = folder / CARD_FILE
    if not folder.is_dir():
        raise UserError(f"network folder {folder} does not exist")
    if not file.is_file():
        raise UserError(f"folder {folder} holds no saved network: {CARD_FILE} is missing")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged: {reason(error)}") from error
    if not isinstance(found, dict) or "format" not in found:
        raise UserError(f"{file} lacks format; expected what Network.save writes")
    if found["format"] != FORMAT:
        raise UserError(f"{file} has format {found['format']}, this segdistill reads format {FORMAT}")
    return Description.from_dict(found, str(file))
