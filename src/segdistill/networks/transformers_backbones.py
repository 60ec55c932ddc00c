"""Backbones of transformers without a segmentation head, as teachers of features."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segdistill.errors import UserError, reason, unknown_name
from segdistill.networks.headless import NO_HEAD, refuse_classes, spread
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.transformers_files import normalization_of_checkpoint, quiet, read, refuse_incomplete, write

BACKBONES = (
    "convnext",
    "convnextv2",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    "resnet",
    "swin",
    "swinv2",
)
"""Model types, as the library's configurations name them."""


def load_new(request: Request) -> Network:
    """Build ``transformers:TYPE`` of one of `BACKBONES` with random weights, from a configuration.

    Raises:
        UserError: a number of classes, an unknown option, or weights of a backbone within.
    """
    from transformers import AutoBackbone, AutoConfig

    refuse_classes(request, "transformers:upernet")
    if request.encoder is not None or request.imagenet:
        raise UserError(f"'{request.spec}' is all backbone: name a folder, or a file of its weights")
    with request.building(), quiet():
        config = AutoConfig.for_model(request.name)
        for option in request.options:
            if option not in config.to_dict():
                raise unknown_name(f"option of '{request.spec}'", option, config.to_dict())
        config = AutoConfig.for_model(request.name, **{"num_channels": request.in_channels, **request.options})
        config.out_indices = _stages(config)
        model = AutoBackbone.from_config(config)
    mean, std = request.default_normalization()
    return wrap(model, request.spec, mean, std)


def load_folder(request: Request, config: Any) -> Network:
    """Load a folder, or a name on the hub, of one of `BACKBONES`, as a backbone or with another head than ours.

    Raises:
        UserError: a number of classes, a damaged folder, or weights that leave a part of the backbone random.
    """
    refuse_classes(request, "transformers:upernet")
    config.out_indices = _stages(config)
    with quiet():
        try:
            # Not AutoBackbone.from_pretrained: it looks for a folder on the hub first.
            model, found = _class_of(config).from_pretrained(
                request.name, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"cannot load network '{request.spec}': {reason(error)}") from error
    # Norms of stages that a model without segmentation does not have begin as identities.
    added = {name for name in found["missing_keys"] if name.startswith("hidden_states_norms")}
    refuse_incomplete(Path(request.name), {**found, "missing_keys": set(found["missing_keys"]) - added})
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # out of the mapped file, see from_transformers
    mean, std = normalization_of_checkpoint(request, int(config.num_channels))
    return wrap(model, request.spec, mean, std)


def wrap(model: Any, spec: str | None = None, mean: Any = None, std: Any = None) -> Network:
    """A plain model of one of `BACKBONES` as a `Network` that shows features.

    Args:
        model: the backbone class, or a model around it, whose weights are then copied into one.
        spec: what it can be built from again; by default its model type, its folder has the rest.
        mean, std: see `Network`.

    Raises:
        UserError: a model whose weights do not make a backbone.
    """
    config = model.config
    if not type(model).__name__.endswith("Backbone"):
        model = _copied(model)
    count = len(model.config.out_indices)
    return Network(
        model,
        stages=[f"[feature_maps][{index}]" for index in range(count)],
        embedding=f"[feature_maps][{count - 1}]",
        logits=None,
        in_channels=int(config.num_channels),
        multiple=_multiple(config),
        mean=mean,
        std=std,
        spec=spec or f"transformers:{config.model_type}",
        probe_size=64,
        write=write,
        read=read,
        teaches_only=NO_HEAD,
    )


def _copied(model: Any) -> nn.Module:
    """The backbone class with the weights of a model, or of what it is built around."""
    config = deepcopy(model.config)
    config.out_indices = _stages(config)
    with quiet():
        backbone, found = _class_of(config).from_pretrained(
            None, config=config, state_dict=model.state_dict(), dtype=torch.float32, output_loading_info=True
        )
    missing = [name for name in found["missing_keys"] if not name.startswith("hidden_states_norms")]
    if missing:
        raise UserError(
            f"the {type(model).__name__} lacks {len(missing)} tensors of its backbone, such as {missing[0]}"
        )
    return backbone.to(next(model.parameters()).device)  # type: ignore[no-any-return]


def _class_of(config: Any) -> Any:
    from transformers.models.auto.modeling_auto import MODEL_FOR_BACKBONE_MAPPING

    return MODEL_FOR_BACKBONE_MAPPING[type(config)]


def _stages(config: Any) -> list[int]:
    """Which outputs are stages: all of a pyramid, four of a plain transformer; 0 is the stem."""
    depths = getattr(config, "depths", None)
    return list(range(1, len(depths) + 1)) if depths else spread(config.num_hidden_layers)


def _multiple(config: Any) -> int:
    return 32 if getattr(config, "depths", None) else int(config.patch_size)
