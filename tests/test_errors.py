from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from segdistill.errors import UserError, reason, unknown_name


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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            RuntimeError("Weights only load failed. Two options, \x1b[1mdo those\x1b[0m. \n\t(1) In PyTorch 2.6, we"),
            "Weights only load failed",
        ),
        (RuntimeError("\x1b[31mred\x1b[0m and\n  plain"), "red and plain"),
        (KeyError("depth"), "depth is missing"),
        (FileNotFoundError(2, "No such file or directory", "x.pth"), "No such file or directory"),
        (ValueError(), "ValueError"),
        (ValueError("a size such as 2.5, e.g. Half of five. Then more."), "a size such as 2.5, e.g. Half of five"),
        (
            RuntimeError("Exception from src/core.cpp:12:\nCheck 'x' failed at y\nthe model is cut off"),
            "the model is cut off",
        ),
        (RuntimeError("word " * 100), "word " * 59 + "word ..."),
    ],
)
def test_messages_of_other_libraries_become_one_sentence(error: Exception, expected: str) -> None:
    assert reason(error) == expected
