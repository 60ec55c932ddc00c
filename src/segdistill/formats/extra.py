"""The libraries of extras, asked for only where they are needed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from segdistill.errors import missing_package


def require(name: str, purpose: str, extra: str = "deploy") -> Any:
    """Import a module of an extra.

    Args:
        name: the module, such as ``"onnxruntime"``.
        purpose: what it is needed for, the beginning of the sentence without it.
        extra: the extra of segdistill that brings it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_package(purpose, name.partition(".")[0], extra) from error


def check_installed(name: str, purpose: str, extra: str) -> None:
    """Check that a package is installed, without importing it; arguments are those of `require`.

    Raises:
        UserError: it is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise missing_package(purpose, name, extra)
