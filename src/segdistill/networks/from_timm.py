"""Backbones of timm without a segmentation head, as teachers of features: ``timm:NAME``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.errors import UserError, unknown_name
from segdistill.networks.headless import NO_HEAD, refuse_classes, spread
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.networks.weights import few, read_weights, refuse_misfit

FINEST = 4
"""The stride of the first stage, as of every other network here."""


class FeatureMaps(nn.Module):
    """A backbone of timm that returns feature maps.

    Those of a transformer are its tokens in their places, normalised as for its own last layer, without the class token
    and registers; position embeddings are interpolated by timm.

    Args:
        model: with ``forward_intermediates``.
        stages: which of the maps that its ``feature_info`` lists.
        tokens: whether it is a plain transformer.
    """

    def __init__(self, model: nn.Module, stages: Sequence[int], tokens: bool) -> None:
        super().__init__()
        self.model = model
        self.stages = list(stages)
        self.tokens = tokens

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (B, C_i, H / s_i, W / s_i), fine to coarse, of normalised images (B, C, H, W)."""
        model: Any = self.model
        maps: list[Tensor] = model.forward_intermediates(
            images, indices=self.stages, norm=self.tokens, output_fmt="NCHW", intermediates_only=True
        )
        return maps


def load(request: Request) -> Network:
    """Build ``timm:NAME``, with options of ``timm.create_model``; weights come from a file.

    Raises:
        UserError: name or option unknown, a number of classes, or a model whose feature maps timm does not give.
    """
    import timm

    refuse_classes(request, f"smp:FPN:tu-{request.name}")
    if not timm.is_model(request.name):
        raise unknown_name("timm model", request.name, timm.list_models())
    if request.encoder is not None:
        raise UserError(f"'{request.spec}' is all backbone: name the file itself, without {{encoder: ...}}")
    with request.building():
        with torch.device("meta"):
            kind = type(timm.create_model(request.name))
        known = inspect.signature(kind.__init__).parameters
        any_size = {"dynamic_img_size": True, "strict_img_size": False}
        settings = {name: value for name, value in any_size.items() if name in known} | request.options
    with request.building(fetching=request.imagenet):
        model = timm.create_model(
            request.name, pretrained=request.imagenet, in_chans=request.in_channels, num_classes=0, **settings
        )
    with request.building():
        mean, std = _normalization(model) if request.in_channels == 3 else (None, None)
        return wrap(model, request.spec, mean, std)


def wrap(model: Any, spec: str | None = None, mean: Any = None, std: Any = None) -> Network:
    """A plain model of timm as a `Network` that shows features; its classifier, if any, is not used.

    Args:
        model: with ``forward_intermediates`` and ``feature_info``, as nearly all have.
        spec: what it can be built from again; None: nothing.
        mean, std: see `Network`.

    Raises:
        UserError: another model.
    """
    described = getattr(model, "feature_info", None)
    if not hasattr(model, "forward_intermediates") or not isinstance(described, list):
        raise UserError(f"the {type(model).__name__} of timm gives no feature maps (forward_intermediates)")
    strides = [int(one["reduction"]) for one in described]
    tokens = len(set(strides)) == 1
    stages = [place - 1 for place in spread(len(strides))] if tokens else _stages(strides)
    embedding = getattr(model, "patch_embed", None)
    fixed = tokens and not getattr(embedding, "dynamic_img_pad", False) and getattr(embedding, "strict_img_size", False)
    return Network(
        FeatureMaps(model, stages, tokens),
        stages=[f"[{index}]" for index in range(len(stages))],
        embedding=f"[{len(stages) - 1}]",
        logits=None,
        in_channels=_channels(model),
        multiple=strides[-1],
        size=tuple(embedding.img_size) if fixed and embedding is not None else None,
        mean=mean,
        std=std,
        spec=spec,
        probe_size=64,
        read=read,
        teaches_only=NO_HEAD,
    )


def read(model: nn.Module, file: Path) -> list[str]:
    """Load a file of the same backbone, with a classifier or without; timm converts names of other origin.

    Returns:
        What was left out, a line each.

    Raises:
        UserError: it cannot be read, or leaves a part of the backbone without weights.
    """
    inner: Any = model.model
    own = inner.state_dict()
    weights = read_weights(file)
    weights.without_prefix(own.__contains__)
    convert = getattr(sys.modules[type(inner).__module__], "checkpoint_filter_fn", None)
    state = weights.tensors
    if convert is not None:
        try:
            state = convert(dict(state), inner)
        except (KeyError, RuntimeError, ValueError, AttributeError, IndexError):
            state = weights.tensors  # of something else, which is told below
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    refuse_misfit(file, missing, [], shapes)
    inner.load_state_dict({name: state[name] for name in own if name in state}, strict=False)
    left = [name for name in state if name not in own]
    return [*weights.notes, *([f"left out {len(left)} tensors of {file.name} ({few(left)})"] if left else [])]


def _stages(strides: Sequence[int]) -> list[int]:
    """The last map of every stride of 4 and more."""
    return [
        place
        for place, stride in enumerate(strides)
        if stride >= FINEST and (place + 1 == len(strides) or strides[place + 1] != stride)
    ]


def _channels(model: Any) -> int:
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    return first.in_channels


def _normalization(model: Any) -> tuple[Any, Any]:
    settings = model.pretrained_cfg
    return settings.get("mean"), settings.get("std")
