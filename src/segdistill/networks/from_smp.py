"""Networks of segmentation_models_pytorch: ``smp:ARCH:ENCODER``."""

from __future__ import annotations

import difflib
import inspect
from pathlib import Path
from typing import Any

from torch import nn

from segdistill.errors import UserError, unknown_name
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.unused import freeze_unused

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
        UserError: architecture, encoder or option unknown, or refused by the library; weights not to be had.
    """
    # Here and not above: the library takes seconds to import, and only this source needs it.
    import segmentation_models_pytorch as smp

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
    # What is saved has its weights: from_pretrained shall not fetch ImageNet's first.
    model.config["encoder_weights"] = None
    dropout = getattr(model.decoder, "dropout", None)
    if dropout is not None:
        # FPN's works in place, and would spoil the embedding that is tapped before it.
        dropout.inplace = False
    mean, std = _normalization(encoder, request)
    # img_size is a timm option, for transformers of one size; PAN pools its map of stride 16 by 8 once more.
    size = request.options.get("img_size", 128 if arch is smp.PAN else 64)
    with request.building():  # a transformer of one size refuses others in the first forward
        network = Network(
            model,
            # Output i has stride 2**i, or less where dilated; 0 is the image.
            stages=[f"encoder[{i}]" for i in range(2, len(model.encoder.out_channels))],
            embedding="segmentation_head:input" if dropout is None else "decoder.dropout:input",
            logits="segmentation_head.0",
            in_channels=request.in_channels,
            multiple=model.encoder.output_stride if model.requires_divisible_input_shape else 1,
            mean=mean,
            std=std,
            spec=request.spec,
            probe_size=size,
            write=write,
        )
        return freeze_unused(network, size)


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


def _check_options(arch: type[nn.Module], encoder: str, request: Request) -> None:
    # smp's own encoders swallow every unknown keyword without a word; timm's are refused by timm.create_model.
    of_smp = [*inspect.signature(arch.__init__).parameters]
    if "encoder_output_stride" not in of_smp:
        of_smp.append("output_stride")
    known = None if encoder.startswith("tu-") else of_smp
    for option in request.options:
        if option in _RESERVED or (known is not None and option not in known):
            raise unknown_name(f"option of '{request.spec}'", option, set(known or ()) - _RESERVED)


def _normalization(encoder: str, request: Request) -> tuple[Any, Any]:
    if not request.imagenet or request.in_channels != 3:
        return request.default_normalization()
    from segmentation_models_pytorch.encoders import get_preprocessing_params

    with request.building(fetching=True):
        settings = get_preprocessing_params(encoder)
    scale = settings["input_range"][1]  # 1 or 255: the range that mean and std speak of
    return [value / scale for value in settings["mean"]], [value / scale for value in settings["std"]]
