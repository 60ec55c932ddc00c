"""What networks of transformers read and write: configurations, weights, settings of image processors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segdistill.errors import UserError, reason
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.transformers_families import FAMILIES
from segdistill.networks.weights import Weights, read_weights, refuse_misfit


def write(network: Network, folder: Path) -> None:
    """Write config.json, model.safetensors and preprocessor_config.json: what the Auto classes read."""
    described = network.description
    config: Any = network.model.config
    if described.classes:
        config.id2label = dict(enumerate(described.classes))
        config.label2id = {name: label for label, name in config.id2label.items()}
    with quiet():
        network.model.save_pretrained(folder)  # type: ignore[operator]
    if network.info.in_channels == 3:
        # Rescales and normalises, nothing else.
        known = FAMILIES.get(config.model_type)
        processor = "ViTImageProcessor" if known is None else known.processor
        settings: dict[str, Any] = {"image_processor_type": processor, "do_resize": False}
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
    loaded, found = fitted(model, weights)
    refuse_incomplete(file, found)
    model.load_state_dict(loaded.state_dict())
    return weights.notes


def fitted(model: nn.Module, weights: Weights) -> tuple[Any, Mapping[str, Any]]:
    """A new model with what fits, and the library's report; only it knows how names in files map to its own."""
    with quiet():
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


def refuse_incomplete(file: Path, report: Mapping[str, Any], new: str | tuple[str, ...] | None = None) -> None:
    """Refuse weights that leave a part of the network random, but for a head that is ``new`` on purpose."""

    def wanted(name: str) -> bool:
        return new is None or not name.startswith(new)

    missing = sorted(filter(wanted, report["missing_keys"]))
    shapes = sorted(key for key, *_ in report["mismatched_keys"] if wanted(key))
    # What is in the file and not in the network (an auxiliary head, an image classifier's) does no harm.
    refuse_misfit(file, missing, [], shapes)


def normalization_of_checkpoint(request: Request, channels: int) -> tuple[Any, Any]:
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


def named_classes(config: Any) -> tuple[str, ...] | None:
    """The names that a checkpoint has for its classes; None where it has the library's LABEL_0 and so on."""
    names = [str(config.id2label.get(label, "")) for label in range(config.num_labels)]
    if not all(names) or len(set(names)) < len(names) or all(name.startswith("LABEL_") for name in names):
        return None
    return tuple(names)


@contextmanager
def quiet() -> Iterator[None]:
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


def channels_of(config: Any) -> int:
    """Channels of the images that a configuration speaks of."""
    owner = config if FAMILIES[config.model_type].backbone is None else config.backbone_config
    return int(owner.num_channels)
