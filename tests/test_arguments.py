"""Plain values checked against signatures, more than once against the same."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from segdistill import UserError
from segdistill.arguments import checked_arguments


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
