"""Networks of segmentation_models_pytorch: ``smp:ARCH:ENCODER``."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from segdistill.errors import UserError, reason, unknown_name
from segdistill.networks.encoder_weights import load_encoder
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.unused import freeze_unused
from segdistill.networks.weights import WEIGHTS_FILE

# DPT is left out: its encoder gives one scale only, so there are no stages from fine to coarse.
ARCHITECTURES = (
    "Unet",
    "UnetPlusPlus",
    "MAnet",
    "Linknet",
    "FPN",
    "PSPNet",
    "PAN",
    "DeepLabV3",
    "DeepLabV3Plus",
    "Segformer",
    "UPerNet",
)
# Set by load_network itself, or of no use here: logits stay logits, and nothing reads an image's class.
_RESERVED = {
    "self",
    "kwargs",
    "encoder_name",
    "encoder_weights",
    "classes",
    "in_channels",
    "activation",
    "aux_params",
}


def load(request: Request) -> Network:
    """Build ``smp:ARCH:ENCODER``, with the constructor options of its query.

    Stages are the encoder's outputs of stride 4 and more. The embedding is taken before the dropout that FPN
    and PSPNet end in: it zeroes whole channels, which would be noise to every feature and relation loss. The
    dilated PSPNet of the papers is ``smp:PSPNet:resnet18?encoder_depth=5&output_stride=8``.

    Raises:
        UserError: architecture, encoder or option unknown, or refused by the library; weights that cannot be fetched.
    """
    # Here and not above: the library takes seconds to import, and only this source needs it.
    import segmentation_models_pytorch as smp

    if Path(request.name).is_dir():
        return _load_folder(request)
    arch_name, _, encoder = request.name.partition(":")
    known = {name.lower(): name for name in ARCHITECTURES}
    if arch_name.lower() not in known:
        raise unknown_name("smp architecture", arch_name, ARCHITECTURES)
    arch = getattr(smp, known[arch_name.lower()])
    _check_encoder(encoder, request.spec)
    _check_options(arch, encoder, request)

    timm = encoder.startswith("tu-")
    with request.building(fetching=request.imagenet):
        model = arch(
            encoder_name=encoder,
            encoder_weights=(True if timm else "imagenet") if request.imagenet else None,
            in_channels=request.in_channels,
            classes=request.classes(),
            **request.options,
        )
    notes = []
    if request.encoder is not None:
        advice = _timm_advice(known[arch_name.lower()], encoder)
        notes = load_encoder(model.encoder, request.encoder, request.spec, advice)
    with request.building(fetching=request.imagenet):
        mean, std = _normalization(encoder, request)
    with request.building():  # a transformer of one size refuses others in the first forward
        network = wrap(model, request.spec, mean, std, request.options.get("img_size"))
    network.notes += notes
    return network


def wrap(model: Any, spec: str | None = None, mean: Any = None, std: Any = None, size: int | None = None) -> Network:
    """A plain smp model as a `Network`.

    Args:
        model: of one of `ARCHITECTURES`, without activation behind its logits.
        spec: what it can be built from again; by default found in its configuration.
        mean, std: see `Network`.
        size: of the images, for transformers of one size; by default any does.

    Raises:
        UserError: another architecture, or an activation.
    """
    import segmentation_models_pytorch as smp

    arch = type(model).__name__
    if arch not in ARCHITECTURES:
        raise unknown_name("smp architecture", arch, ARCHITECTURES)
    if not isinstance(model.segmentation_head[-1].activation, nn.Identity):
        raise UserError(f"the {arch} has an activation behind its logits, expected activation=None")
    if spec is None:
        options = {key: value for key, value in model.config.items() if key not in _RESERVED and key[0] != "_"}
        query = "&".join(f"{key}={json.dumps(value)}" for key, value in options.items())
        spec = f"smp:{arch}:{model.config['encoder_name']}?{query}"
        size = size or options.get("img_size")
    # What is saved has its weights: from_pretrained shall not fetch ImageNet's first.
    model.config["encoder_weights"] = None
    dropout = getattr(model.decoder, "dropout", None)
    if dropout is not None:
        # FPN's works in place, and would spoil the embedding that is tapped before it.
        dropout.inplace = False
    # PAN pools its map of stride 16 by 8 once more.
    size = size or (128 if isinstance(model, smp.PAN) else 64)
    network = Network(
        model,
        # Output i has stride 2**i, or less where dilated; 0 is the image.
        stages=[f"encoder[{i}]" for i in range(2, len(model.encoder.out_channels))],
        embedding="segmentation_head:input" if dropout is None else "decoder.dropout:input",
        logits="segmentation_head.0",
        in_channels=model.encoder.out_channels[0],
        multiple=model.encoder.output_stride if model.requires_divisible_input_shape else 1,
        mean=mean,
        std=std,
        spec=spec,
        probe_size=size,
        write=write,
    )
    return freeze_unused(network, size)


def is_smp_folder(folder: Path) -> bool:
    """Whether ``folder`` was written by the ``save_pretrained`` of an smp model."""
    return "_model_class" in _config(folder)


def _load_folder(request: Request) -> Network:
    """The trained network in a folder of smp's ``save_pretrained``, built from its spec, which can be saved again."""
    folder = Path(request.name)
    config = _config(folder)
    known = {name.lower(): name for name in ARCHITECTURES}
    arch_name = str(config.get("_model_class", "")).lower()
    if arch_name not in known:
        raise unknown_name(f"smp architecture in {folder / 'config.json'}:", config.get("_model_class"), ARCHITECTURES)
    if request.options or request.imagenet or request.encoder:
        raise UserError(f"network '{request.spec}': a trained network takes no options and no other init_weights")
    classes, channels = int(config.get("classes", 1)), int(config.get("in_channels", 3))
    if request.in_channels not in (3, channels):
        raise UserError(f"network '{request.spec}' takes {channels} channels, not in_channels={request.in_channels}")
    # What the options of the spec may say; an activation would turn logits into something else.
    options = {key: value for key, value in config.items() if key not in _RESERVED and not key.startswith("_")}
    name = f"{known[arch_name]}:{config.get('encoder_name', 'resnet34')}"
    query = "&".join(f"{key}={json.dumps(value)}" for key, value in options.items())
    network = load(Request(f"smp:{name}?{query}", name, options, classes, channels))
    network.load_weights(_weights_in(folder))
    return network


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file}: {reason(error)}") from error
    return config if isinstance(config, dict) else {}


def _weights_in(folder: Path) -> Path:
    file = next((folder / name for name in (WEIGHTS_FILE, "pytorch_model.bin") if (folder / name).is_file()), None)
    if file is None:
        raise UserError(f"folder {folder} holds no weights: {WEIGHTS_FILE} is missing")
    return file


def write(network: Network, folder: Path) -> None:
    """Write config.json and model.safetensors, which ``smp.from_pretrained(folder)`` reads."""
    network.model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "README.md").unlink()  # a model card for the hub, full of "[More Information Needed]"


def _check_encoder(encoder: str, spec: str) -> None:
    import timm
    from segmentation_models_pytorch.encoders import encoders

    if not encoder:
        raise UserError(f"network '{spec}' names no encoder: expected smp:ARCH:ENCODER, e.g. smp:FPN:resnet18")
    if encoder in encoders or (encoder.startswith("tu-") and timm.is_model(encoder[3:])):
        return
    names = [*encoders, *(f"tu-{name}" for name in timm.list_models())]
    close = difflib.get_close_matches(encoder, names, n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(close)}? " if close else ""
    raise UserError(
        f"unknown smp encoder '{encoder}': {hint}There are {len(encoders)} of smp (such as resnet18, mit_b0) "
        f"and {len(names) - len(encoders)} of timm (tu-NAME, such as tu-mobilenetv3_small_050)"
    )


def _timm_advice(arch: str, encoder: str) -> str:
    """Which encoder takes the weights that timm publishes of an encoder of smp, whose tensors smp calls otherwise."""
    import timm

    def plain(name: str) -> str:
        return re.sub(r"[-_]", "", name)

    names = [name for name in timm.list_models() if plain(name) in (plain(encoder), f"{plain(encoder)}100")]
    return f", under the names that smp has for them; timm's are for smp:{arch}:tu-{names[0]}" if names else ""


def _check_options(arch: type[nn.Module], encoder: str, request: Request) -> None:
    # smp's own encoders swallow every unknown keyword without a word; timm's are refused by timm.create_model.
    of_smp = [*inspect.signature(arch.__init__).parameters]
    if "encoder_output_stride" not in of_smp:
        of_smp.append("output_stride")
    known = None if encoder.startswith("tu-") else of_smp
    defaults = inspect.signature(arch.__init__).parameters
    for option, value in request.options.items():
        if option in _RESERVED or (known is not None and option not in known):
            raise unknown_name(f"option of '{request.spec}'", option, set(known or ()) - _RESERVED)
        default = defaults[option].default if option in defaults else None
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(default, int | float) and not isinstance(default, bool) and not is_number:
            raise UserError(f"option '{option}' of '{request.spec}' is {value!r}, expected a number such as {default}")


def _normalization(encoder: str, request: Request) -> tuple[Any, Any]:
    """Mean and std that the encoder's published weights were trained with, if it starts from such weights."""
    if request.in_channels != 3 or not (request.imagenet or request.encoder):
        return request.default_normalization()
    if request.encoder is not None and not encoder.startswith("tu-"):
        return request.default_normalization()  # smp would fetch its settings over the network
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    try:
        settings = get_preprocessing_params(encoder)
    except ValueError:  # timm publishes no weights of this encoder, so the file is somebody's own
        return request.default_normalization()
    scale = settings["input_range"][1]  # 1 or 255: the range that mean and std speak of
    return [value / scale for value in settings["mean"]], [value / scale for value in settings["std"]]
