"""`as_network`: a model of a library whose taps are known, wrapped without being asked for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from segdistill.errors import UserError
from segdistill.networks import from_smp, from_timm, from_torchvision, from_transformers
from segdistill.networks.network import Network

_LIBRARIES: dict[str, Any] = {
    "segmentation_models_pytorch": from_smp.wrap,
    "torchvision": from_torchvision.wrap,
    "transformers": from_transformers.wrap,
    "timm": from_timm.wrap,
}


def as_network(
    model: nn.Module, role: str = "network", *, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> Network:
    """Wrap a plain model of smp, torchvision, transformers or timm, whose inside is known; a `Network` stays as it is.

    Args:
        model: such as ``smp.Unet("resnet34", classes=11)`` or
            ``torchvision.models.segmentation.deeplabv3_resnet50(num_classes=11)``.
        role: what the network is called in messages.
        mean: per channel, of images in 0..1, subtracted inside; None: images go in as they are, for those who
            normalise them themselves.
        std: per channel, given with ``mean``.

    Raises:
        UserError: a model of another origin, which `Network` wraps with taps that you name; or one that gives no
            logits.

    Example:
        >>> import segmentation_models_pytorch as smp
        >>> as_network(smp.FPN("resnet18", encoder_weights=None, classes=4)).num_classes
        4
    """
    if isinstance(model, Network):
        return model
    if not isinstance(model, nn.Module):
        raise UserError(f"the {role} is a {type(model).__name__}, expected a segdistill Network or a torch module")
    library = type(model).__module__.partition(".")[0]
    if library not in _LIBRARIES:
        raise UserError(
            f"the {role} is a {type(model).__name__}, whose inside is not known; wrap it: "
            "Network(model, stages=[...], embedding=..., logits=...)"
        )
    wrapped: Network = _LIBRARIES[library](model, mean=mean, std=std)
    return wrapped


def as_student(model: nn.Module, role: str = "student") -> Network:
    """Wrap a plain model that is to be trained; see `as_network`.

    Raises:
        UserError: one of a kind that can only teach, too.
    """
    network = as_network(model, role)
    if network.teaches_only:
        raise UserError(
            f"the {role} {network.spec or type(network.model).__name__} can only teach: {network.teaches_only}"
        )
    return network
