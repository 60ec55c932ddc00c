from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from segdistill.errors import UserError, unknown_name


@pytest.mark.parametrize(
    ("name", "hint"),
    [("brb", ": did you mean 'brd'?"), ("KD", ": did you mean 'kd'?"), ("something else", "."), (None, "."), (7, ".")],
)
def test_unknown_name(name: object, hint: str) -> None:
    assert str(unknown_name("method", name, ["kd", "brd"])) == f"unknown method '{name}'{hint} Known: brd, kd"


def test_names_keep_their_case() -> None:
    assert "did you mean 'FPN'?" in str(unknown_name("architecture", "fpn", ["Unet", "FPN"]))


def test_it_is_an_ordinary_value_error() -> None:
    assert issubclass(UserError, ValueError)


class Broken(Dataset[torch.Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> torch.Tensor:
        try:
            raise OSError("file ends")
        except OSError as error:
            raise UserError("x.png cannot be read: it is truncated") from error


def test_sentence_survives_a_worker_process() -> None:
    """A worker's error comes as a text with the whole traceback in it."""
    with pytest.raises(UserError) as error:
        next(iter(DataLoader(Broken(), num_workers=1)))
    assert str(error.value) == "x.png cannot be read: it is truncated"
