"""Objects of a recipe written as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from segdistill.errors import UserError
from segdistill.naming import OBJECT, is_plain, recipe_name, written


def plain(values: Any, where: str) -> Any:
    """Write ``values`` as YAML gives them back: mappings, lists, texts, numbers; paths become texts and tuples lists.

    Args:
        values: what a recipe holds at ``where``.
        where: the keys that lead there, joined by dots, for messages.

    Raises:
        UserError: anything that a recipe cannot write down.

    Example:
        >>> plain({"root": Path("data/camvid"), "crop": (352, 480)}, "data")
        {'root': 'data/camvid', 'crop': [352, 480]}
    """
    if isinstance(values, Mapping):
        return {str(key): plain(value, f"{where}.{key}" if where else str(key)) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [plain(value, where) for value in values]
    if isinstance(values, Path):
        return str(values)
    if is_plain(values):
        return values
    if callable(getattr(values, "in_recipe", None)):
        return plain(values.in_recipe(), where)
    from segdistill.methods import Method  # heavy, and only needed where a recipe holds objects
    from segdistill.networks.network import Network

    if isinstance(values, Method):
        return plain(written("method", values), where)
    if isinstance(values, Network):  # its weights are what they are, whatever its spec
        return f"{OBJECT}{values.spec or type(values.model).__name__}"
    if isinstance(values, FunctionType):
        return recipe_name("loss", values)
    if callable(values):
        return plain(written("loss", values), where)
    raise UserError(
        f"{where} holds a {type(values).__name__}, expected what a recipe can write down: names, numbers, lists and "
        "mappings of them"
    )
