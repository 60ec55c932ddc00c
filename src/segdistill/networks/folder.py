"""A saved network: the model's own files, and network.json with what they do not say."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from torch import Tensor

from segdistill.errors import UserError
from segdistill.files import permissions
from segdistill.networks.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from segdistill.networks.network import Network

CARD_FILE = "network.json"
FORMAT = 1


@dataclass(frozen=True)
class Card:
    """What network.json holds: how to build the network again, and how it wants its images."""

    format: int
    spec: str | None
    num_classes: int
    in_channels: int
    mean: list[float] | None
    std: list[float] | None


def save_network(network: Network, folder: Path, write: Callable[[Network, Path], None]) -> None:
    """Write the files of ``network`` to ``folder``; see `Network.save`."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"cannot save a network to {folder}: it is a file, expected a folder")
    card = Card(
        format=FORMAT,
        spec=network.spec,
        num_classes=network.num_classes,
        in_channels=network.info.in_channels,
        mean=_values(network.mean),
        std=_values(network.std),
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the folder, so that every file moves by a rename, done or not done when killed.
        with tempfile.TemporaryDirectory(prefix=".saving-", dir=folder) as temporary:
            write(network, Path(temporary))
            (Path(temporary) / CARD_FILE).write_text(json.dumps(asdict(card), indent=2) + "\n")
            # The weights last: whoever finds them finds what they need beside them.
            for file in sorted(Path(temporary).iterdir(), key=lambda file: (file.suffix != ".json", file.name)):
                os.chmod(file, permissions())  # safetensors makes its files private
                os.replace(file, folder / file.name)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot save a network to {folder}: {getattr(error, 'strerror', None) or error}") from error


def read_card(folder: Path) -> Card:
    """Read network.json in ``folder``.

    Raises:
        UserError: no such folder or file, damaged, of another format, or a key missing or of a wrong type.
    """
    file = folder / CARD_FILE
    if not folder.is_dir():
        raise UserError(f"network folder {folder} does not exist")
    if not file.is_file():
        raise UserError(f"folder {folder} holds no saved network: {CARD_FILE} is missing")
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}") from error
    keys = list(Card.__dataclass_fields__)
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise UserError(f"{file} lacks {', '.join(missing)}: expected {', '.join(keys)}")
    if found["format"] != FORMAT:
        raise UserError(f"{file} has format {found['format']}, this segdistill reads format {FORMAT}")
    for key in ("num_classes", "in_channels"):
        if not isinstance(found[key], int) or found[key] < 1:
            raise UserError(f"{file}: {key} is {found[key]!r}, expected a whole number of at least 1")
    if not isinstance(found["spec"], str | None):
        raise UserError(f"{file}: spec is {found['spec']!r}, expected a network spec or null")
    if found["spec"] is None:
        raise UserError(
            f"the network in {folder} was wrapped by hand and cannot be built from a name: "
            f"build it again and call network.load_weights('{folder}')"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"folder {folder} holds no weights: {WEIGHTS_FILE} is missing")
    return Card(**{key: found[key] for key in keys})


def _values(column: Tensor | None) -> list[float] | None:
    # Through float's shortest form: 0.485 comes back as 0.485, not as 0.48500001430511475.
    return None if column is None else [float(f"{value:.7g}") for value in column.flatten().tolist()]
