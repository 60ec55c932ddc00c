"""Semantic segmentation networks of transformers: ``transformers:NAME-OR-FOLDER``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segdistill.errors import UserError, missing_package, reason, unknown_name
from segdistill.networks.encoder_weights import check_share, report
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.unused import freeze_unused
from segdistill.networks.weights import Weights, read_weights, refuse_misfit

_CONVNEXT_TINY = {"model_type": "convnext", "depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]}


@dataclass(frozen=True)
class _Family:
    """One model type: where its taps are, and the settings of a new one that differ from the library's."""

    stages: Sequence[str]
    embedding: str
    logits: str
    head: str
    defaults: Mapping[str, Any]


# The embedding is always taken before the dropout that precedes the classifier.
FAMILIES = {
    "segformer": _Family(
        stages=[f"segformer.stages.{i}" for i in range(4)],
        embedding="decode_head.activation",
        logits="decode_head.classifier",
        head="decode_head",
        defaults={},
    ),
    "upernet": _Family(
        stages=[f"decode_head:input[{i}]" for i in range(4)],
        embedding="decode_head.fpn_bottleneck",
        logits="decode_head.classifier",
        head="decode_head",
        # Without the auxiliary head: its scores go nowhere but into the library's own loss.
        defaults={"backbone_config": _CONVNEXT_TINY, "hidden_size": 256, "use_auxiliary_head": False},
    ),
    "mobilenet_v2": _Family(
        stages=[f"mobilenet_v2.layer.{i}" for i in (1, 4, 11, 15)],  # the last before each stride of 2, and the last
        embedding="segmentation_head.conv_projection",
        logits="segmentation_head.classifier",
        head="segmentation_head",
        # Stride 8 as in the published weights. The library's dropout of 0.8 is what TensorFlow KEEPS.
        defaults={"output_stride": 8, "classifier_dropout_prob": 0.2},
    ),
    "mobilevit": _Family(
        stages=[f"mobilevit.encoder.layer.{i}" for i in range(1, 5)],
        embedding="segmentation_head.aspp.project",
        logits="segmentation_head.classifier",
        head="segmentation_head",
        defaults={"output_stride": 16},  # as in the published weights
    ),
}


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
        model = _pretrained(request)
        channels = _channels(model.config)
        mean, std = _checkpoint_normalization(request, channels)
    network = wrap(model, request.spec, mean, std)
    network.notes += notes
    names = None if request.name in FAMILIES or request.imagenet else _named_classes(model.config)
    if names is not None:
        network.description = replace(network.description, classes=names)
    return network


def wrap(model: Any, spec: str | None = None, mean: Any = None, std: Any = None) -> Network:
    """A plain model of transformers for semantic segmentation as a `Network`.

    Args:
        model: of one of the `FAMILIES`.
        spec: what it can be built from again; by default its model type, its folder has the rest.
        mean, std: see `Network`.

    Raises:
        UserError: another model type.
    """
    kind = model.config.model_type
    if kind not in FAMILIES:
        raise unknown_name("transformers model type", kind, FAMILIES)
    family = FAMILIES[kind]
    network = Network(
        model,
        stages=family.stages,
        embedding=family.embedding,
        logits=family.logits,
        in_channels=_channels(model.config),
        mean=mean,
        std=std,
        spec=spec or f"transformers:{kind}",
        probe_size=64,
        write=write,
        read=read,
    )
    return freeze_unused(network)


def write(network: Network, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json: what the Auto classes read."""
    described = network.description
    config: Any = network.model.config
    config.id2label = dict(enumerate(described.classes))
    config.label2id = {name: label for label, name in config.id2label.items()}
    with _quiet():
        network.model.save_pretrained(folder)  # type: ignore[operator]
    if network.info.in_channels == 3:
        # The most general of its processors: rescales and normalises, nothing else.
        settings: dict[str, Any] = {"image_processor_type": "SegformerImageProcessor", "do_resize": False}
        settings["do_rescale"] = described.pixels in (None, "uint8")
        settings["do_normalize"] = network.mean is not None and network.std is not None
        if network.mean is not None and network.std is not None:
            settings |= {
                "image_mean": network.mean.flatten().tolist(),
                "image_std": network.std.flatten().tolist(),
            }
        (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def read(model: nn.Module, file: Path) -> list[str]:
    """Load ``file`` into ``model``, with the names of this version of the library or of the file format.

    Returns:
        What was taken off the file's names, a line each.

    Raises:
        UserError: it cannot be read, or does not fit.
    """
    weights = read_weights(file)
    parts = {name for name, _ in model.named_children()}
    weights.without_prefix(lambda name: name.partition(".")[0] in parts)
    weights.without_unused(model.state_dict())
    loaded, found = _fitted(model, weights)
    _refuse_incomplete(file, found)
    model.load_state_dict(loaded.state_dict())
    return weights.notes


def _fitted(model: nn.Module, weights: Weights) -> tuple[Any, Mapping[str, Any]]:
    """A new model with what fits, and the library's report; only it knows how names in files map to its own."""
    with _quiet():
        try:
            loaded, found = type(model).from_pretrained(  # type: ignore[attr-defined]
                None,
                config=model.config,
                state_dict=weights.tensors,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported, and refused here
            )
        except RuntimeError as error:
            raise UserError(f"weights file {weights.file} does not fit this network: {reason(error)}") from error
    return loaded, found


def _load_backbone(model: Any, file: Path, spec: str) -> list[str]:
    """Fill the backbone of a new model from the file of a backbone, an image classifier or a whole network.

    Raises:
        UserError: it cannot be read, or fills less than three quarters of the backbone.
    """
    weights = read_weights(file)
    backbone = model.backbone if model.config.model_type == "upernet" else getattr(model, model.base_model_prefix)
    loaded, found = _fitted(backbone, weights)
    own = backbone.state_dict()
    counted = [name for name in own if not name.endswith("num_batches_tracked")]
    shapes = {name: torch.empty(there) for name, there, *_ in found["mismatched_keys"]}
    missing = [name for name in counted if name in {*found["missing_keys"], *shapes}]
    check_share(len(counted) - len(missing), len(counted), missing, shapes, own, file, spec)
    backbone.load_state_dict(loaded.state_dict())
    return [*weights.notes, report(file, len(counted), missing, sorted(found["unexpected_keys"]))]


def _new(request: Request) -> Any:
    from transformers import AutoConfig, AutoModelForSemanticSegmentation

    _check_options(request, request.options, AutoConfig.for_model(request.name).to_dict())
    if request.imagenet:
        raise UserError(
            f"network '{request.spec}' has no ImageNet weights: name a checkpoint, such as transformers:nvidia/mit-b0"
        )
    settings = {**FAMILIES[request.name].defaults, **request.options, "num_labels": request.classes()}
    if request.name == "upernet":
        settings["backbone_config"] = _backbone(request, settings["backbone_config"])
    else:
        settings["num_channels"] = request.in_channels
    with request.building():
        model = AutoModelForSemanticSegmentation.from_config(AutoConfig.for_model(request.name, **settings))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            # Made to be overwritten by published weights, the library's start does not train: MobileViT draws
            # gains around 0, MobileNetV2 takes TensorFlow's decay, 0.997, for torch's momentum, 1 - decay.
            module.reset_parameters()
            module.momentum = 0.1
    return model


def _backbone(request: Request, wanted: Any) -> dict[str, Any]:
    from transformers import AutoConfig

    if not isinstance(wanted, dict) or "model_type" not in wanted:
        raise UserError(
            f"backbone_config of '{request.spec}' is {wanted!r}, expected a mapping like {{model_type: swin}}"
        )
    with request.building():
        known = AutoConfig.for_model(wanted["model_type"]).to_dict()
    _check_options(request, wanted, known)
    base = _CONVNEXT_TINY if wanted["model_type"] == "convnext" else {}
    outputs = {"out_features": [f"stage{i}" for i in range(1, 5)], "num_channels": request.in_channels}
    return {**base, **outputs, **wanted}


def _check_options(request: Request, options: Iterable[str], known: Iterable[str]) -> None:
    # The library keeps every setting it does not know, and says nothing.
    for option in options:
        if option not in known:
            raise unknown_name(f"option of '{request.spec}'", option, known)


def _pretrained(request: Request) -> Any:
    from transformers import AutoConfig, AutoModelForSemanticSegmentation

    folder = Path(request.name)
    if not folder.is_dir() and "/" not in request.name:
        raise unknown_name("transformers network or folder", request.name, FAMILIES)
    if not folder.is_dir() and (folder.is_absolute() or request.name.startswith(".") or request.name.count("/") != 1):
        raise UserError(
            f"network '{request.spec}': '{request.name}' is neither a folder, nor a name on the hub "
            f"(OWNER/NAME), nor one of {', '.join(FAMILIES)}"
        )
    # Old folders hold a .bin, which the library reads with weights_only=True.
    old = folder.is_dir() and not any(folder.glob("*.safetensors"))
    for file in sorted(folder.glob("*.safetensors")):
        read_weights(file)  # names a damaged file, which the library does not
    with _quiet():
        try:
            config = AutoConfig.from_pretrained(request.name)
        except (OSError, ValueError) as error:
            raise UserError(
                f"network '{request.spec}': cannot read '{request.name}' as a folder here, nor fetch it from "
                f"the Hugging Face hub: {reason(error)}"
            ) from error
        if config.model_type not in FAMILIES:
            raise unknown_name(f"model type of '{request.name}':", config.model_type, FAMILIES)
        if request.imagenet:
            config.num_labels = request.classes()
        elif request.num_classes not in (None, config.num_labels):
            raise UserError(
                f"network '{request.spec}' has {config.num_labels} classes, expected "
                f"num_classes={request.num_classes}; init_weights='imagenet' keeps the backbone alone"
            )
        channels = _channels(config)
        if request.in_channels not in (3, channels):
            raise UserError(
                f"network '{request.spec}' takes {channels} channels, not in_channels={request.in_channels}"
            )
        if config.model_type == "upernet":
            config.use_auxiliary_head = False
        try:
            model, report = AutoModelForSemanticSegmentation.from_pretrained(
                request.name,
                config=config,
                dtype=torch.float32,
                use_safetensors=None if old else True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported, and refused here
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot load network '{request.spec}': {reason(error)}") from error
    for tensor in (*model.parameters(), *model.buffers()):
        # Out of the mapped file: it may go away, and unaligned weights give other last digits than they were
        # saved with.
        tensor.data = tensor.data.clone()
    _refuse_incomplete(folder, report, new=FAMILIES[config.model_type].head if request.imagenet else None)
    return model


def _refuse_incomplete(file: Path, report: Mapping[str, Any], new: str | None = None) -> None:
    """Refuse weights that leave a part of the network random, but for a head that is ``new`` on purpose."""

    def wanted(name: str) -> bool:
        return new is None or not name.startswith(new)

    missing = sorted(filter(wanted, report["missing_keys"]))
    shapes = sorted(key for key, *_ in report["mismatched_keys"] if wanted(key))
    # What is in the file and not in the network (an auxiliary head, an image classifier's) does no harm.
    refuse_misfit(file, missing, [], shapes)


def _channels(config: Any) -> int:
    owner = config.backbone_config if config.model_type == "upernet" else config
    return int(owner.num_channels)


def _checkpoint_normalization(request: Request, channels: int) -> tuple[Any, Any]:
    """Mean and std of images in 0..1, for what the checkpoint's image processor does with images in 0..255."""
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(request.name)
    except (OSError, json.JSONDecodeError):
        settings = None
    if settings is None:
        return Request(request.spec, request.name, in_channels=channels).default_normalization()
    if settings.get("do_flip_channel_order"):
        raise UserError(
            f"network '{request.spec}' was trained on BGR images (do_flip_channel_order in its "
            f"preprocessor_config.json), expected one for RGB"
        )
    # It computes (factor * pixel - mean) / std; here pixels have been divided by 255 already.
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    scale = 255 * factor
    mean, std = [0.0] * channels, [1.0] * channels
    if settings.get("do_normalize", "image_mean" in settings):
        mean, std = (_per_channel(request, settings, key, channels) for key in ("image_mean", "image_std"))
    elif abs(scale - 1) < 1e-6:
        return None, None
    return [value / scale for value in mean], [value / scale for value in std]


def _per_channel(request: Request, settings: Mapping[str, Any], key: str, channels: int) -> list[float]:
    values = settings.get(key)
    values = [values] * channels if isinstance(values, int | float) else values
    if not isinstance(values, list) or len(values) != channels or not all(isinstance(v, int | float) for v in values):
        raise UserError(
            f"network '{request.spec}': {key} in its preprocessor_config.json is {values!r}, "
            f"expected {channels} numbers"
        )
    return [float(value) for value in values]


def _named_classes(config: Any) -> tuple[str, ...] | None:
    """The names that a checkpoint has for its classes; None where it has the library's LABEL_0 and so on."""
    names = [str(config.id2label.get(label, "")) for label in range(config.num_labels)]
    if not all(names) or len(set(names)) < len(names) or all(name.startswith("LABEL_") for name in names):
        return None
    return tuple(names)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and reports off the terminal, and leave its settings as they were."""
    from transformers.utils import logging

    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
