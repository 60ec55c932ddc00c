"""`load_network`: a network from its spec."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from segdistill.errors import UserError
from segdistill.networks import from_python, from_smp, from_torchvision, from_transformers
from segdistill.networks.folder import CARD_FILE, read_description
from segdistill.networks.network import Network
from segdistill.networks.request import Request, parse_options
from segdistill.networks.weights import WEIGHTS_FILE
from segdistill.plugins import entry_point_names

# A new source is one file and one line here.
SOURCES: dict[str, Callable[[Request], Network]] = {
    "smp": from_smp.load,
    "torchvision": from_torchvision.load,
    "transformers": from_transformers.load,
    "python": from_python.load,
}


def load_network(
    spec: str | os.PathLike[str],
    num_classes: int | None = None,
    in_channels: int = 3,
    init_weights: str | os.PathLike[str] | None = None,
) -> Network:
    """Build a network from its ``spec``, or load one from the folder it was saved to.

    Args:
        spec: one of

            * ``smp:ARCH:ENCODER``, e.g. ``smp:FPN:tu-mobilenetv3_small_050``,
            * ``torchvision:NAME``, e.g. ``torchvision:deeplabv3_resnet50``,
            * ``transformers:NAME``, a model type (``transformers:segformer``), a folder or a name on the hub,
            * ``python:module:function``, called with ``num_classes`` and ``in_channels``, returns a
              `Network`,
            * a name that an installed package adds by an entry point in the group ``segdistill.networks``, for such a
              function,
            * a folder made by `Network.save`,

            options for the constructor follow as ``?key=value&key=value``, each value in YAML.
        num_classes: the number of classes; None where the weights say it (a folder, a checkpoint).
        in_channels: channels of the images; a folder knows its own.
        init_weights: None for random ones (or the folder's own), ``"imagenet"`` for those of the encoder from its
            own library, or a .safetensors or .pth file of the whole network.

    Returns:
        The network, in training mode like every new module: call ``eval()`` before you predict with it.

    Raises:
        UserError: something in the above does not exist, cannot be read or does not agree.

    Example:
        >>> network = load_network("smp:FPN:resnet18", num_classes=4)
        >>> [stage.stride for stage in network.info.stages]
        [4, 8, 16, 32]
    """
    if not isinstance(spec, str | os.PathLike) or not os.fspath(spec):
        raise UserError(f"network is {spec!r}, expected a spec such as smp:FPN:resnet18, or a folder")
    text = os.fspath(spec)
    for name, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"{name} is {count!r}, expected at least 1")
    source, rest = _source_of(text)
    if source is not None:
        name, _, query = rest.partition("?")
        imagenet = init_weights == "imagenet"
        request = Request(text, name, parse_options(query, text), num_classes, in_channels, imagenet)
        network = SOURCES[source](request)
        file = None if init_weights is None or imagenet else Path(init_weights)
    elif Path(text).is_dir():
        network = _load_folder(Path(text), num_classes, in_channels)
        if init_weights == "imagenet":
            raise UserError(f"init_weights 'imagenet' contradict '{text}': a saved network has its own weights")
        file = None if init_weights is None else Path(init_weights)
    else:
        raise UserError(
            f"unknown network '{text}': no such folder, nor one of "
            f"{', '.join([*(f'{source}:...' for source in SOURCES), *entry_point_names(from_python.GROUP)])}"
        )
    if file is not None:
        network.load_weights(file)
    if num_classes is not None and network.num_classes != num_classes:
        raise UserError(f"network '{text}' has {network.num_classes} classes, expected num_classes={num_classes}")
    # Said outright: transformers hands out checkpoints in eval mode, the others do not.
    return network.train()


def is_spec(name: str) -> bool:
    """Whether a name is that of a network to be built, and not of a folder."""
    return ":" in name or _source_of(name)[0] is not None


def _source_of(spec: str) -> tuple[str | None, str]:
    """The source of a spec, None for none, and what follows it; names that installed packages add are Python's."""
    source, colon, rest = spec.partition(":")
    if colon and source in SOURCES:
        return source, rest
    added = spec.partition("?")[0] in entry_point_names(from_python.GROUP)
    return ("python", spec) if added else (None, "")


def weights_file(network: str | os.PathLike[str], weights: str | os.PathLike[str] | None) -> Path:
    """The file with the weights of a network that is given as a folder, or as a spec with ``weights``."""
    path = Path(network if weights is None else weights)
    return path / WEIGHTS_FILE if path.is_dir() else path


def load_run(folder: str | os.PathLike[str]) -> Network:
    """The network of a run folder, or of any folder made by `Network.save`, in eval mode, ready to predict.

    Raises:
        UserError: no such folder, no network in it, or a damaged one.
    """
    return _load_folder(Path(folder), num_classes=None, in_channels=3).eval()


def _load_folder(folder: Path, num_classes: int | None, in_channels: int) -> Network:
    described = read_description(folder)
    if described.spec is None:
        raise UserError(
            f"the network in {folder} was wrapped by hand and cannot be built from a name: "
            f"build it again and call network.load_weights('{folder}')"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise UserError(f"folder {folder} holds no weights: {WEIGHTS_FILE} is missing")
    if num_classes not in (None, described.num_classes):
        raise UserError(f"network '{folder}' has {described.num_classes} classes, expected num_classes={num_classes}")
    # 3 is the default: nobody may have meant it.
    if in_channels not in (3, described.in_channels):
        raise UserError(f"network '{folder}' has {described.in_channels} channels, expected in_channels={in_channels}")
    source, rest = _source_of(described.spec)
    if source is None:
        raise UserError(f"{folder / CARD_FILE}: spec is '{described.spec}', expected one of {', '.join(SOURCES)}")
    name, _, query = rest.partition("?")
    options = parse_options(query, described.spec)
    request = Request(described.spec, name, options, described.num_classes, described.in_channels, imagenet=False)
    if source == "transformers":
        # The folder has the whole configuration, while the spec may name a place that has moved on since.
        network = SOURCES[source](replace(request, spec=f"transformers:{folder}", name=str(folder), options={}))
        network.spec = described.spec
    else:
        network = SOURCES[source](request)
        network.load_weights(folder / WEIGHTS_FILE)
    network.description = described
    return network
