"""Networks that a function of the user's makes: ``python:module:function``."""

from __future__ import annotations

import importlib
import os
import sys

from segdistill.errors import UserError, unknown_name
from segdistill.networks.network import Network
from segdistill.networks.request import Request


def load(request: Request) -> Network:
    """Call ``function(num_classes=, in_channels=, **options)`` of a module of the current folder.

    Raises:
        UserError: no such module or function, it fails, or it returns something other than a `Network`.
    """
    module_name, colon, function_name = request.name.partition(":")
    if not module_name or not colon or not function_name:
        raise UserError(f"network '{request.spec}' cannot be read: expected python:module:function")
    if request.imagenet:
        raise UserError(f"weights 'imagenet' mean nothing to '{request.spec}': the function itself can load them")
    folder = os.getcwd()
    if folder not in sys.path:  # true of a console script, unlike of "python -m"
        sys.path.insert(0, folder)
    with request.building():
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        functions = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise unknown_name(f"function of module '{module_name}'", function_name, functions)
    with request.building():
        network = function(num_classes=request.classes(), in_channels=request.in_channels, **request.options)
    if not isinstance(network, Network):
        raise UserError(f"'{request.spec}' returned a {type(network).__name__}, expected a segdistill Network")
    network.spec = request.spec
    return network
