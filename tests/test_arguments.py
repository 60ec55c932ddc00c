"""Plain values checked against signatures, more than once against the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Optional

import pytest
import torch

from segdistill import UserError
from segdistill.arguments import checked_arguments, refuse_wrong_types
from segdistill.datasets import SegmentationDataset


@dataclass
class Scaled:
    """An object that is called, and that has no hash."""

    by: float = 2.0

    def __call__(self, values: list[int], offset: int = 1) -> float:
        return self.by * sum(values) + offset


def add(values: list[int], more: list[int] = [1, 2]) -> list[int]:  # noqa: B006
    return values + more


@pytest.mark.parametrize("kind", [Scaled(), add])
def test_each_call_is_checked_alone(kind: object) -> None:
    first = checked_arguments(kind, {"values": [1]}, "loss")
    assert first["values"] == [1]
    for values in first.values():
        if isinstance(values, list):
            values.append(9)  # of no concern to the next call
    second = checked_arguments(kind, {"values": [3]}, "loss")
    assert second == {"values": [3]} | ({"offset": 1} if isinstance(kind, Scaled) else {"more": [1, 2]})
    with pytest.raises(UserError, match=r"loss: .*values"):
        checked_arguments(kind, {"values": "three"}, "loss")


def test_what_is_left_out_belongs_to_a_call() -> None:
    assert checked_arguments(add, {}, "loss", skip=("values",)) == {"more": [1, 2]}
    with pytest.raises(UserError, match="unknown key in loss: 'values'"):
        checked_arguments(add, {"values": [1]}, "loss", skip=("values",))
    with pytest.raises(UserError, match="the key 'values' is missing"):
        checked_arguments(add, {}, "loss")


class Own:
    """A class of a user's own, of which some arguments are not annotated."""

    def __init__(self, plain=None, maybe: Optional[int] = 3, number: int = 4, anything: Any = 5, **more: int) -> None:  # type: ignore[no-untyped-def]  # noqa: UP045
        """Takes them."""


def test_an_argument_of_a_wrong_type_is_named() -> None:
    fine = {"plain": None, "maybe": None, "anything": None, "more": {"other": 3}}
    refuse_wrong_types(Own, fine)
    refuse_wrong_types(Own, fine | {"number": torch.zeros(1)})  # objects are left to the class itself
    with pytest.raises(UserError, match=r"^Own: number is None, expected int$"):
        refuse_wrong_types(Own, fine | {"number": None})
    with pytest.raises(UserError, match=r"^Own: number: expected int, found four$"):
        refuse_wrong_types(Own, fine | {"number": "four"})


class OfOnesOwn(SegmentationDataset):
    """Fails for a reason of its own."""

    def __init__(self, images: list[Any], transform: Callable[..., Any] | None = None, **more: Any) -> None:
        super().__init__(classes=["a", "b"], ids=["x"])
        raise TypeError("own trouble")

    def __getitem__(self, index: int) -> Any:
        """Never asked for."""


@pytest.mark.parametrize("more", [{}, {"other": 3}, {"transform": len}, {"transform": None}], ids=repr)
def test_an_error_of_a_class_of_ones_own_is_left_as_it_is(more: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="own trouble"):
        OfOnesOwn(images=[torch.zeros(1)], **more)
