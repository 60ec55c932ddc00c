"""The libraries of the extra ``deploy``, asked for only where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from segdistill.errors import missing_package


def require(name: str, purpose: str) -> Any:
    """The module ``name``.

    Args:
        name: module of the extra ``deploy``, such as ``"onnxruntime"``.
        purpose: what it is needed for, the beginning of the sentence without it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise missing_package(purpose, name, "deploy") from error
