"""`Ensemble`: several networks as one, which shows the mean of their class probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.errors import UserError
from segdistill.networks.features import Features, NetworkInfo, Tap
from segdistill.networks.network import Network
from segdistill.networks.wrapper import Wrapper
from segdistill.networks.wrapping import as_network


class Ensemble(Wrapper):
    """Several networks of the same classes and channels, averaged: architectures, libraries and strides may differ.

    ``log sum_i w_i softmax(z_i)``: the logits ``z_i`` of each network are resized bilinearly to the finest of their
    grids, and the weighted mean of their probabilities is shown as log-probabilities, in ``logits`` and as the scores.
    There are no features: the `Distiller` refuses methods that compare them.

    Args:
        networks: two or more; a plain model is wrapped as by `as_network`.
        weights: of each network's probabilities, above 0; only their proportions matter. None: all alike.

    Raises:
        UserError: fewer networks, other classes or channels among them, or weights that do not fit.

    Example:
        >>> import segdistill, torch
        >>> specs = "smp:FPN:resnet18", "torchvision:lraspp_mobilenet_v3_large"
        >>> both = Ensemble([segdistill.load_network(spec, num_classes=4) for spec in specs], weights=[2, 1]).eval()
        >>> probabilities = both(torch.rand(1, 3, 64, 64)).exp()
        >>> bool(torch.allclose(probabilities.sum(1), torch.ones(1, 64, 64)))
        True
    """

    log_weights: Tensor

    def __init__(self, networks: Iterable[nn.Module], weights: Sequence[float] | None = None) -> None:
        if not isinstance(networks, Iterable):
            raise UserError(f"an ensemble of {networks!r} is asked for, expected a list of networks")
        inside = [as_network(one, f"network {number} of an ensemble") for number, one in enumerate(networks, 1)]
        if len(inside) < 2:
            raise UserError(f"an ensemble of {len(inside)} networks is given, expected 2 or more")
        weights = [1.0] * len(inside) if weights is None else weights
        if len(weights) != len(inside) or not all(0 < weight < math.inf for weight in weights):
            raise UserError(f"weights of an ensemble are {list(weights)}, expected {len(inside)} numbers above 0")
        first = inside[0]
        for number, network in enumerate(inside, 1):
            if not network.num_classes:
                raise UserError(f"network {number} of an ensemble has no classifier, expected class scores to average")
            if network.info.in_channels != first.info.in_channels:
                raise UserError(
                    f"network {number} of an ensemble takes {network.info.in_channels} channels, but the first "
                    f"{first.info.in_channels}; choose what each sees by teacher_bands, or SelectedBands in Python"
                )
            network.description.check_classes(
                first.description.classes, f"network {number} of an ensemble", "the first one"
            )
        described = first.description
        stride = math.lcm(*(network.description.stride for network in inside))
        described = replace(described, spec=None, mean=None, std=None, stride=stride)
        super().__init__(inside, _info(inside), described)
        shares = torch.tensor([weight / sum(weights) for weight in weights], device=self.device)
        self.register_buffer("log_weights", shares.log(), persistent=False)

    def scores(self, logits: Sequence[Tensor]) -> Tensor:
        """Log-probabilities of the mean, at the finest grid."""
        size = max(one.shape[-2] for one in logits), max(one.shape[-1] for one in logits)
        total: Tensor | None = None
        for one, log_weight in zip(logits, self.log_weights, strict=True):
            finest = one.to(torch.promote_types(one.dtype, torch.float32))
            if finest.shape[-2:] != size:
                finest = F.interpolate(finest, size=size, mode="bilinear", align_corners=False)
            weighted = finest.log_softmax(1) + log_weight
            total = weighted if total is None else torch.logaddexp(total, weighted)
        assert total is not None
        return total

    def shown(self, features: Sequence[Features]) -> Features:
        """The mean as logits, and no features."""
        logits = self.scores([one.logits for one in features])
        return Features(stages=(), embedding=logits[:, :0], logits=logits)


def _info(networks: Sequence[Network]) -> NetworkInfo:
    finest = min((network.info.logits for network in networks), key=lambda tap: tap.stride)
    mean = replace(finest, name="mean")
    none = Tap(name="", channels=0, stride=mean.stride)
    sizes = sorted({network.info.size for network in networks if network.info.size is not None})
    if len(sizes) > 1:
        told = " and ".join(f"{height} x {width}" for height, width in sizes)
        raise UserError(f"networks of an ensemble take only images of {told} pixels: no image fits all of them")
    info = replace(networks[0].info, stages=(), embedding=none, logits=mean)
    return replace(info, size=sizes[0] if sizes else None)
