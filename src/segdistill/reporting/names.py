"""What things are called on a page."""

from __future__ import annotations

from pathlib import Path

from segdistill.errors import UserError
from segdistill.networks.folder import read_description


def network_name(spec: str) -> str:
    """What people call a network: its architecture and backbone, without options.

    Args:
        spec: a network spec, or the folder of a run, whose network.json names the spec.

    Example:
        >>> network_name("smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=64")
        'FPN mobilenetv3_small_050'
    """
    if Path(spec).is_dir():
        try:
            spec = read_description(Path(spec)).spec or Path(spec).name
        except UserError:
            return Path(spec).name
    source, _, name = spec.partition("?")[0].partition(":")
    if source == "python":
        return name.rpartition(":")[2]
    return " ".join(part.removeprefix("tu-") for part in name.split(":")) or spec
