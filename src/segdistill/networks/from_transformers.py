"""Semantic segmentation networks of transformers: ``transformers:NAME-OR-FOLDER``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segdistill.errors import UserError, missing_package, reason, unknown_name
from segdistill.networks.encoder_weights import check_share, report
from segdistill.networks.fetching import impatient
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.transformers_backbones import BACKBONES, load_folder, load_new
from segdistill.networks.transformers_backbones import wrap as wrap_backbone
from segdistill.networks.transformers_families import FAMILIES, Family
from segdistill.networks.transformers_files import (
    channels_of,
    fitted,
    named_classes,
    normalization_of_checkpoint,
    quiet,
    read,
    refuse_incomplete,
    write,
)
from segdistill.networks.unused import freeze_unused
from segdistill.networks.weights import read_weights


def load(request: Request) -> Network:
    """Build ``transformers:TYPE`` anew, or load ``transformers:FOLDER`` or ``transformers:OWNER/NAME``.

    Options go to the configuration of a new network: ``transformers:segformer?hidden_sizes=[16,32,80,128]``.
    With weights "imagenet", a checkpoint (an image classifier such as nvidia/mit-b0 too) gives the backbone
    alone, and the head is new, for ``num_classes`` classes.

    Raises:
        UserError: transformers is not installed; type, folder, name or option unknown; weights misfit.
    """
    try:
        import transformers  # noqa: F401 - takes seconds, and is an optional extra
    except ImportError as error:
        raise missing_package(f"network '{request.spec}'", "transformers", "transformers") from error
    at_hand = request.name in (*FAMILIES, *BACKBONES) or Path(request.name).is_dir()
    with nullcontext() if at_hand else impatient():
        return _load(request)


def _load(request: Request) -> Network:
    if request.name in BACKBONES:
        return load_new(request)
    config = None if request.name in FAMILIES else _config(request)
    if config is not None and config.model_type in BACKBONES:
        return load_folder(request, config)
    if request.name in FAMILIES:
        model, (mean, std) = _new(request), request.default_normalization()
        channels = request.in_channels
        notes = [] if request.encoder is None else _load_backbone(model, request.encoder, request.spec)
    else:
        notes = []
        if request.encoder is not None:
            raise UserError(
                f"init_weights {{encoder: {request.encoder}}} contradict '{request.spec}': a checkpoint has weights"
            )
        if request.options:
            raise UserError(
                f"network '{request.spec}': a checkpoint takes no options, only new networks do ({', '.join(FAMILIES)})"
            )
        model = _pretrained(request, config)
        channels = channels_of(model.config)
        mean, std = normalization_of_checkpoint(request, channels)
    network = wrap(model, request.spec, mean, std)
    network.notes += notes
    names = None if request.name in FAMILIES or request.imagenet else named_classes(model.config)
    if names is not None:
        network.description = replace(network.description, classes=names)
    return network


def wrap(model: Any, spec: str | None = None, mean: Any = None, std: Any = None) -> Network:
    """A plain model of transformers for semantic segmentation as a `Network`.

    Args:
        model: of one of the `FAMILIES`, or a backbone.
        spec: what it can be built from again; by default its model type, its folder has the rest.
        mean, std: see `Network`.

    Raises:
        UserError: another model type.
    """
    kind = model.config.model_type
    if kind in BACKBONES:
        return wrap_backbone(model, spec, mean, std)
    if kind not in FAMILIES:
        raise unknown_name("transformers model type", kind, FAMILIES)
    family = FAMILIES[kind]
    network = Network(
        model,
        stages=family.stages,
        embedding=family.embedding,
        logits=family.logits,
        scorer=None if family.scorer is None else family.scorer(model.config),
        in_channels=channels_of(model.config),
        multiple=family.multiple(model.config),
        size=family.size(model.config),
        mean=mean,
        std=std,
        spec=spec or f"transformers:{kind}",
        probe_size=64,
        write=write,
        read=read,
        teaches_only=family.teaches_only,
    )
    return network if family.teaches_only else freeze_unused(network)


def _load_backbone(model: Any, file: Path, spec: str) -> list[str]:
    """Fill the backbone of a new model from the file of a backbone, an image classifier or a whole network.

    Raises:
        UserError: it cannot be read, or fills less than three quarters of the backbone.
    """
    weights = read_weights(file)
    backbone = model.backbone if hasattr(model, "backbone") else getattr(model, model.base_model_prefix)
    loaded, found = fitted(backbone, weights)
    own = backbone.state_dict()
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    shapes = {name: torch.empty(there) for name, there, *_ in found["mismatched_keys"]}
    missing = [name for name in counted if name in {*found["missing_keys"], *shapes}]
    check_share(len(counted) - len(missing), len(counted), missing, shapes, own, file, spec)
    backbone.load_state_dict(loaded.state_dict())
    return [*weights.notes, report(file, len(counted), missing, sorted(found["unexpected_keys"]))]


def _new(request: Request) -> Any:
    import transformers
    from transformers import AutoConfig

    family = FAMILIES[request.name]
    _check_options(request, request.options, AutoConfig.for_model(request.name).to_dict())
    if request.imagenet:
        raise UserError(
            f"network '{request.spec}' has no ImageNet weights: name a checkpoint, such as transformers:nvidia/mit-b0"
        )
    settings = {**family.defaults, **request.options, "num_labels": request.classes()}
    if family.backbone is not None:
        settings["backbone_config"] = _backbone(request, family, settings["backbone_config"])
    else:
        settings["num_channels"] = request.in_channels
    with request.building(), quiet():
        model = getattr(transformers, family.auto).from_config(AutoConfig.for_model(request.name, **settings))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Made to be overwritten by published weights, the library's start does not train: MobileViT draws
            # gains around 0, MobileNetV2 takes TensorFlow's decay, 0.997, for torch's momentum, 1 - decay.
            module.reset_parameters()
            module.momentum = 0.1
    return model


def _backbone(request: Request, family: Family, wanted: Any) -> dict[str, Any]:
    from transformers import AutoConfig

    if not isinstance(wanted, dict) or "model_type" not in wanted:
        raise UserError(
            f"backbone_config of '{request.spec}' is {wanted!r}, expected a mapping like {{model_type: swin}}"
        )
    with request.building():
        known = AutoConfig.for_model(wanted["model_type"]).to_dict()
    _check_options(request, wanted, known)
    usual = family.defaults["backbone_config"]
    base = usual if wanted["model_type"] == usual["model_type"] else {}
    return {**base, **(family.backbone or {}), "num_channels": request.in_channels, **wanted}


def _check_options(request: Request, options: Iterable[str], known: Iterable[str]) -> None:
    # The library keeps every setting it does not know, and says nothing.
    for option in options:
        if option not in known:
            raise unknown_name(f"option of '{request.spec}'", option, known)


def _config(request: Request) -> Any:
    """The configuration of a folder or of a name on the hub."""
    from transformers import AutoConfig

    folder = Path(request.name)
    if not folder.is_dir() and "/" not in request.name:
        raise unknown_name("transformers network or folder", request.name, [*FAMILIES, *BACKBONES])
    if not folder.is_dir() and (folder.is_absolute() or request.name.startswith(".") or request.name.count("/") != 1):
        raise UserError(
            f"network '{request.spec}': '{request.name}' is neither a folder, nor a name on the hub "
            f"(OWNER/NAME), nor one of {', '.join([*FAMILIES, *BACKBONES])}"
        )
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]):
        read_weights(file)  # names a damaged file, which the library does not
    with quiet():
        try:
            return AutoConfig.from_pretrained(request.name)
        except (OSError, ValueError) as error:
            raise UserError(
                f"network '{request.spec}': cannot read '{request.name}' as a folder here, nor fetch it from "
                f"the Hugging Face hub: {reason(error)}"
            ) from error


def _pretrained(request: Request, config: Any) -> Any:
    import transformers

    folder = Path(request.name)
    # Old folders hold a .bin, which the library reads with weights_only=True.
    old = folder.is_dir() and not any(folder.glob("*.safetensors"))
    with quiet():
        if config.model_type not in FAMILIES:
            raise unknown_name(f"model type of '{request.name}':", config.model_type, FAMILIES)
        if request.imagenet:
            config.num_labels = request.classes()
        elif request.num_classes not in (None, config.num_labels):
            raise UserError(
                f"network '{request.spec}' has {config.num_labels} classes, expected "
                f"num_classes={request.num_classes}; init_weights='imagenet' keeps only the backbone"
            )
        channels = channels_of(config)
        if request.in_channels not in (3, channels):
            raise UserError(
                f"network '{request.spec}' takes {channels} channels, not in_channels={request.in_channels}"
            )
        if hasattr(config, "use_auxiliary_head"):
            config.use_auxiliary_head = False
        try:
            model, report = getattr(transformers, FAMILIES[config.model_type].auto).from_pretrained(
                request.name,
                config=config,
                dtype=torch.float32,
                use_safetensors=None if old else True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported, and refused here
            )
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            raise UserError(f"cannot load network '{request.spec}': {reason(error)}") from error
    for tensor in (*model.parameters(), *model.buffers()):
        # Out of the mapped file: it may go away, and unaligned weights give other last digits than they were
        # saved with.
        tensor.data = tensor.data.clone()
    refuse_incomplete(folder, report, new=FAMILIES[config.model_type].head if request.imagenet else None)
    return model
