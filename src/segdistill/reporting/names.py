"""What things are called on a page."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segdistill.errors import UserError
from segdistill.networks.folder import read_description


def network_name(spec: Any) -> str:
    """What people call a network: its architecture and backbone, without options.

    Args:
        spec: a network spec, or the folder of a run, whose network.json names the spec; or several, in a list or as the
            keys of a mapping.

    Example:
        >>> network_name("smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=64")
        'FPN mobilenetv3_small_050'
    """
    if isinstance(spec, list | tuple | Mapping):
        return " + ".join(map(network_name, spec))
    text = str(spec)
    if os.path.isdir(text):
        try:
            text = read_description(Path(text)).spec or Path(text).name
        except UserError:
            return Path(text).name
    source, _, name = text.partition("?")[0].partition(":")
    if source == "python":
        return name.rpartition(":")[2]
    return " ".join(part.removeprefix("tu-") for part in name.split(":")) or text
