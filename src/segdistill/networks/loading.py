"""`load_network`: a network from its spec."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.arguments import parse_options
from segdistill.errors import UserError
from segdistill.files import as_path, as_typed
from segdistill.naming import check_nameable
from segdistill.networks import from_onnx, from_python, from_smp, from_timm, from_torchvision, from_transformers
from segdistill.networks.folder import CARD_FILE, read_description
from segdistill.networks.network import Network
from segdistill.networks.pretrained import PRETRAINED_FILE
from segdistill.networks.request import Request
from segdistill.networks.transformers_backbones import BACKBONES
from segdistill.networks.transformers_families import FAMILIES
from segdistill.networks.weights import WEIGHTS_FILE
from segdistill.plugins import entry_point_names

CONFIG_FILE = "config.json"
"""In which smp and transformers write how a model is built."""

ONNX = ".onnx"

# A new source is one file and one line here; what of a `Request` it cannot use, it refuses.
SOURCES: dict[str, Callable[[Request], Network]] = {
    "smp": from_smp.load,
    "torchvision": from_torchvision.load,
    "transformers": from_transformers.load,
    "timm": from_timm.load,
    "onnx": from_onnx.load,
    "python": from_python.load,
}


InitWeights = str | os.PathLike[str] | Mapping[str, str | os.PathLike[str]]
"""Weights to start from: ``"imagenet"``, a file or folder of a whole network, or ``{"encoder": FILE}``."""

_WITH_WEIGHTS = ("smp", "transformers")
"""Sources whose own folders hold trained weights."""


def load_network(
    spec: str | os.PathLike[str],
    num_classes: int | None = None,
    in_channels: int = 3,
    init_weights: InitWeights | None = None,
) -> Network:
    """Build a network from its ``spec``, or load one from the folder it was saved to.

    Args:
        spec: one of

            * ``smp:ARCH:ENCODER``, e.g. ``smp:FPN:tu-mobilenetv3_small_050``, or ``smp:FOLDER`` of ``save_pretrained``,
            * ``torchvision:NAME``, e.g. ``torchvision:deeplabv3_resnet50``,
            * ``transformers:NAME``, a model type (``transformers:segformer``), a folder or a name on the hub,
            * ``timm:NAME``, e.g. ``timm:vit_small_patch14_dinov2``, a backbone that teaches its features alone, as does
              ``transformers:dinov3_vit`` and the like,
            * ``python:module:function``, called with ``num_classes`` and ``in_channels``, returns a
              `Network`,
            * a name that an installed package adds by an entry point in the group ``segdistill.networks``, for such a
              function,
            * ``FILE.onnx`` or ``onnx:FILE``, which can teach its class scores alone,
            * a folder made by `Network.save`, or by the ``save_pretrained`` of smp or transformers,

            options for the constructor follow as ``?key=value&key=value``, each value in YAML. ``mean`` and ``std``
            name the normalisation of images in 0..1 that the weights were trained with:
            ``?mean=[0.5, 0.5, 0.5]&std=[0.5, 0.5, 0.5]``, or ``?mean=null&std=null`` for none.
        num_classes: the number of classes; None where the weights say it (a folder, a checkpoint).
        in_channels: channels of the images; a folder knows its own.
        init_weights: None for random ones (or the folder's own), ``"imagenet"`` for those of the encoder from its
            own library, ``{"encoder": FILE}`` for those of the encoder from a file, or a file of the whole network:
            .safetensors, .pth, .pt, .bin or .ckpt.

    Returns:
        The network, in training mode like every new module: call ``eval()`` before you predict with it. What a user
        should know of the loaded weights is in its ``notes``.

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
    check_nameable(text, "network")
    num_classes, in_channels = as_typed(num_classes), as_typed(in_channels)
    for name, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if count is not None and (not isinstance(count, int) or count < 1):
            raise UserError(f"{name} is {count!r}, expected at least 1")
    imagenet, encoder, file = _start(init_weights)
    source, rest = _source_of(text)
    if source is not None:
        name, _, query = rest.partition("?")
        options, normalization = _split_normalization(parse_options(query, f"network '{text}'"))
        request = Request(text, name, options, num_classes, in_channels, imagenet, encoder)
        network = SOURCES[source](request)
        if normalization:
            network.set_normalization(*_checked_normalization(normalization, text))
    elif os.path.isdir(text):
        if imagenet or encoder is not None:
            what = "imagenet" if imagenet else f"{{encoder: {encoder}}}"
            raise UserError(
                f"init_weights is {what}, but '{text}' is a saved network and has its own weights; leave "
                "init_weights out"
            )
        network = _load_folder(Path(text), num_classes, in_channels)
    elif os.path.isfile(text):
        raise UserError(
            f"network '{text}' is a file; expected a folder, or a spec such as smp:Unet:resnet34, with the file as "
            "init_weights"
        )
    else:
        raise UserError(
            f"unknown network '{text}': no such folder, nor one of "
            f"{', '.join([*(f'{source}:...' for source in SOURCES), *entry_point_names(from_python.GROUP)])}; "
            "expected a spec such as smp:Unet:resnet34"
        )
    if (encoder is not None and encoder.name == PRETRAINED_FILE) or _is_pretrained(text):
        network.start = "features"
    elif not (imagenet or encoder is not None or has_own_weights(text)):
        network.start = "random"
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
    if spec.partition("?")[0].lower().endswith(ONNX):
        return "onnx", spec.removeprefix("onnx:")
    source, colon, rest = spec.partition(":")
    if colon and source in SOURCES:
        return source, rest
    added = spec.partition("?")[0] in entry_point_names(from_python.GROUP)
    return ("python", spec) if added else (None, "")


def load_trained(
    network: str | os.PathLike[str],
    num_classes: int,
    in_channels: int = 3,
    weights: str | os.PathLike[str] | None = None,
    *,
    role: str = "model",
    key: str = "weights",
    features: bool = False,
) -> Network:
    """Load a network that has trained weights, or refuse one that has none.

    Args:
        network: a run folder or another folder of a saved network, ``smp:FOLDER``, ``transformers:FOLDER-OR-NAME``, or
            any other spec together with ``weights``.
        num_classes: the number of classes, for a spec with ``weights``; what has its own weights keeps its own number.
        in_channels: channels of the images.
        weights: a file for a network that is given as a spec.
        role: what the network is called in messages, such as ``"teacher"``.
        key: what ``weights`` is called in messages.
        features: whether trained features are enough, as a pre-trained network has them.

    Raises:
        UserError: not there, without trained weights, or as for `load_network`.
    """
    check_trained(network, weights, role=role, key=key, features=features)
    given = has_own_weights(network) or is_headless(os.fspath(network))
    return load_network(network, None if given else num_classes, in_channels, weights)


def check_trained(
    network: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None,
    *,
    role: str = "model",
    key: str = "weights",
    features: bool = False,
) -> None:
    """Refuse a network without trained weights, before anything is loaded; arguments as for `load_trained`.

    Raises:
        UserError: no such folder, a spec without ``weights``, or a pre-trained network without a trained classifier.
    """
    text = os.fspath(network)
    check_nameable(text, role)
    for given in (text, weights):
        if given is not None and not features:
            _refuse_pretrained(os.fspath(given))
    own = has_own_weights(text)
    if not own and weights is None and os.path.isfile(text):
        raise UserError(
            f"{role} '{text}' is a file; expected a run folder, or a network spec such as smp:Unet:resnet34 together "
            f"with the file as {key}"
        )
    if not own and weights is None and not is_spec(text):
        raise UserError(
            f"{role} folder '{text}' does not exist; expected a run folder, a folder of a trained smp or transformers "
            "model, or a network spec"
        )
    if not own and weights is None:
        raise UserError(
            f"{role} '{text}' is a network spec, which has no trained weights; expected a run folder, a folder of a "
            f"trained smp or transformers model, or a file of weights as {key}"
        )


def has_own_weights(network: str | os.PathLike[str]) -> bool:
    """Whether a network is given as something that holds trained weights: a folder, or a published checkpoint."""
    source, _, rest = os.fspath(network).partition(":")
    name = rest.partition("?")[0]
    if source == "transformers" and name and name not in FAMILIES and name not in BACKBONES:
        return True
    return _source_of(os.fspath(network))[0] == "onnx" or network_folder(network) is not None


def is_headless(spec: str) -> bool:
    """Whether a spec is that of a backbone without a segmentation head."""
    source, rest = _source_of(spec)
    return source == "timm" or (source == "transformers" and rest.partition("?")[0] in BACKBONES)


def network_folder(network: str | os.PathLike[str]) -> Path | None:
    """The folder in ``FOLDER``, ``smp:FOLDER`` or ``transformers:FOLDER``; None where a network is not given as one."""
    text = os.fspath(network)
    if os.path.isdir(text):
        return Path(text)
    source, _, rest = text.partition(":")
    folder = Path(rest.partition("?")[0])
    return folder if source in _WITH_WEIGHTS and rest and folder.is_dir() else None


def files_of(network: str | os.PathLike[str], weights: str | os.PathLike[str] | None = None) -> tuple[Path, ...]:
    """The files that make a trained network what it is: its weights and how it is built; none for a name on the hub.

    Args:
        network: as for `load_trained`.
        weights: as for `load_trained`.
    """
    source, rest = _source_of(os.fspath(network))
    if source == "onnx":
        return from_onnx.files_beside(Path(rest.partition("?")[0]))
    folder = network_folder(network if weights is None else weights)
    if folder is None:
        return () if weights is None else (Path(weights),)
    described = [folder / name for name in (CARD_FILE, CONFIG_FILE, "preprocessor_config.json")]
    tensors = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return tuple(file for file in (*described, *tensors) if file.is_file())


def apart_from_files(network: str | os.PathLike[str]) -> str:
    """What a network is given as beside the files that `files_of` names: a folder or an ONNX file may lie anywhere."""
    text = os.fspath(network)
    if os.path.isdir(text):
        return ""
    placed = network_folder(text) is not None or _source_of(text)[0] == "onnx"
    return text.partition("?")[2] if placed else text


def load_run(folder: str | os.PathLike[str]) -> Network:
    """The network of a run folder, or of any other folder of a saved network, in eval mode, ready to predict.

    Args:
        folder: made by `Network.save`, or by the ``save_pretrained`` of smp or transformers (which may be said outright
            as ``smp:FOLDER`` or ``transformers:FOLDER``); or ``transformers:OWNER/NAME``, a trained network on the hub
            or in the hub's cache on this machine.

    Raises:
        UserError: no such folder, no network in it, or a damaged one; a spec of an untrained network.
    """
    as_path(folder, "folder")  # checked only: a spec is no path
    text = os.fspath(folder)
    source, _ = _source_of(text)
    if source not in (None, "onnx") and not os.path.isdir(text):
        check_trained(text, None)
        return load_network(text).eval()
    if os.path.isfile(text):
        raise UserError(f"'{text}' is a file; expected the folder of a run or of another saved network")
    _refuse_pretrained(text)
    return _load_folder(Path(text), num_classes=None, in_channels=3).eval()


def _is_pretrained(text: str) -> bool:
    """Whether a network is given as the folder of a pre-training; a spec may be longer than the name of a file."""
    return os.path.isfile(os.path.join(text, PRETRAINED_FILE))


def _refuse_pretrained(text: str) -> None:
    if _is_pretrained(text):
        raise UserError(
            f"{text} was made by segdistill pretrain, and its classifier is not trained; start a training from it with "
            f"init_weights {text}"
        )


def _start(init_weights: InitWeights | None) -> tuple[bool, Path | None, Path | None]:
    """Whether to begin with the library's ImageNet weights, the file of an encoder, the file of a whole network."""
    if init_weights is None:
        return False, None, None
    if isinstance(init_weights, Mapping):
        if list(init_weights) != ["encoder"] or not isinstance(init_weights["encoder"], str | os.PathLike):
            raise UserError(f"init_weights is {dict(init_weights)}, expected imagenet, a file, or {{encoder: FILE}}")
        return False, Path(init_weights["encoder"]), None
    return (True, None, None) if init_weights == "imagenet" else (False, None, Path(init_weights))


def _split_normalization(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options for the constructor, and those that every source has: ``mean`` and ``std``."""
    shared = ("mean", "std")
    return {k: v for k, v in options.items() if k not in shared}, {k: v for k, v in options.items() if k in shared}


def _checked_normalization(given: Mapping[str, Any], spec: str) -> tuple[Any, Any]:
    mean, std = given.get("mean"), given.get("std")
    for values in (mean, std):
        fine = isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        if values is not None and not fine:
            raise UserError(f"network '{spec}': mean is {mean!r} and std is {std!r}, expected a list of numbers each")
    if std is not None and min(std) <= 0:
        raise UserError(f"network '{spec}': std is {std}, expected numbers above 0")
    return mean, std


def _load_folder(folder: Path, num_classes: int | None, in_channels: int) -> Network:
    if not (folder / CARD_FILE).is_file() and (folder / CONFIG_FILE).is_file():
        library = "smp" if from_smp.is_smp_folder(folder) else "transformers"
        # A folder may be called what a new network of the library is: dpt.
        path = folder if folder.parts[1:] else f"./{folder}"
        return load_network(f"{library}:{path}", num_classes, in_channels)
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
    options, _ = _split_normalization(parse_options(query, f"network '{described.spec}'"))
    request = Request(described.spec, name, options, described.num_classes, described.in_channels)
    if source == "transformers":
        # The folder has the whole configuration, while the spec may name a place that has moved on since.
        network = SOURCES[source](replace(request, spec=f"transformers:{folder}", name=str(folder), options={}))
        network.spec = described.spec
    else:
        network = SOURCES[source](request)
        network.load_weights(folder / WEIGHTS_FILE)
    network.description = described
    return network
