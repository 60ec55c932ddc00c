"""`build_methods`: methods from their names and hyper-parameters, as recipes and Python give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segdistill.arguments import construct
from segdistill.errors import UserError
from segdistill.methods.method import Method
from segdistill.naming import resolve


def build_methods(spec: Any) -> list[Method]:
    """Make the methods that a recipe's ``method`` names.

    Args:
        spec: ``"brd"``, ``["brd", "cwd"]``, ``[{"brd": {"boundary": 2.0}}, "cwd"]``, ``{"brd": {...}, "cwd": {}}``,
            or methods already made; for names see `resolve`.

    Raises:
        UserError: for an unknown method, an unknown or wrong-typed hyper-parameter, or no method at all.

    Example:
        >>> [type(method).__name__ for method in build_methods({"brd": {"boundary": 2.0}, "cwd": {}})]
        ['BRD', 'CWD']
    """
    if isinstance(spec, Method):
        return [spec]
    if isinstance(spec, str):
        return [_method(spec, {})]
    if isinstance(spec, Mapping) and spec:
        return [_method(name, values) for name, values in spec.items()]
    if isinstance(spec, list | tuple) and spec:
        return [method for entry in spec for method in build_methods(entry)]
    raise UserError(
        f"method is {spec!r}, expected a method's name, a list of names, or {{name: {{hyper-parameter: value}}}}"
    )


def _method(name: str, values: Any) -> Method:
    kind: type[Method] = resolve("method", name)
    if not isinstance(values, Mapping | None):
        raise UserError(f"method {name} is followed by {values!r}, expected a mapping {{hyper-parameter: value}}")
    return construct(kind, values or {}, f"method {name}")
