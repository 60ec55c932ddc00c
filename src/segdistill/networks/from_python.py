"""Networks from outside this package: ``python:module:function``, or a name that an installed package adds."""

from __future__ import annotations

from segdistill.errors import UserError
from segdistill.networks.network import Network
from segdistill.networks.request import Request
from segdistill.plugins import PREFIX, load_entry_point, load_object

#: Group of entry points by which installed packages add networks.
GROUP = "segdistill.networks"


def load(request: Request) -> Network:
    """Call ``function(num_classes=, in_channels=, **options)`` of a module, or of an entry point.

    Raises:
        UserError: no such module or function, it fails, or it returns something other than a `Network`.
    """
    if request.imagenet:
        raise UserError(
            f"init_weights is imagenet, which '{request.spec}' does not take; load the weights in the function itself"
        )
    if request.encoder is not None:
        raise UserError(
            f"init_weights is {{encoder: {request.encoder}}}, but segdistill does not know which part of "
            f"'{request.spec}' is the backbone; load the file in the function itself"
        )
    function = load_entry_point(GROUP, request.name)
    if function is None:
        function = load_object(f"{PREFIX}{request.name}", "network")
    if not callable(function):
        raise UserError(f"network '{request.spec}' is a {type(function).__name__}, expected a function or a class")
    with request.building():
        network = function(num_classes=request.classes(), in_channels=request.in_channels, **request.options)
    if not isinstance(network, Network):
        raise UserError(f"'{request.spec}' returned a {type(network).__name__}, expected a segdistill Network")
    network.spec = request.spec
    return network
