"""Which methods need nothing but features: neither labels nor class scores."""

from __future__ import annotations

from collections.abc import Iterable

from segdistill.errors import UserError
from segdistill.methods import METHODS, Method


def check_features_alone(methods: Iterable[Method]) -> None:
    """Refuse methods that a pre-training has nothing for.

    Raises:
        UserError: a method needs labels, or compares class scores.
    """
    for method in methods:
        if not method.of_features:
            what = "labels" if method.needs_labels else "class scores"
            raise UserError(
                f"method {method.name} needs {what}, which pretrain does not have; expected one that compares only "
                f"features: {', '.join(of_features_alone())}, or brd: {{kd: 0}}"
            )


def of_features_alone() -> list[str]:
    """The built-in methods that need neither labels nor class scores as they are by default.

    Example:
        >>> {"feature", "at", "drd"} <= set(of_features_alone()), "kd" in of_features_alone()
        (True, False)
    """
    return [name for name, kind in METHODS.items() if kind().of_features]
