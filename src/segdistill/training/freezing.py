"""A frozen backbone: neither its weights nor its batch statistics change."""

from __future__ import annotations

from torch import nn

from segdistill.networks.backbone import backbone_parameters
from segdistill.networks.network import Network


def freeze_backbone(network: Network) -> list[nn.Module]:
    """Freeze the parameters that the backbone's stages depend on; they stay frozen.

    Args:
        network: with stages among its `Features`.

    Returns:
        The parts to be kept in eval mode while the network is trained, so that their batch statistics stay too and
        their dropout is off: those that hold parameters of the backbone and none that is trained.

    Raises:
        UserError: if the network has no stages.
    """
    named = dict(network.named_parameters())
    frozen = {named[name] for name in backbone_parameters(network)}
    for parameter in frozen:
        parameter.requires_grad_(False)

    def outermost(module: nn.Module) -> list[nn.Module]:
        parameters = list(module.parameters())
        if not frozen.intersection(parameters):
            return []
        if any(parameter.requires_grad for parameter in parameters):
            return [part for child in module.children() for part in outermost(child)]
        return [module]

    return outermost(network.model)
