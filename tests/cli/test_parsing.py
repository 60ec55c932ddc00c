"""How options are written on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from segdistill.cli.parsing import call
from segdistill.errors import UserError


@dataclass(frozen=True)
class Settings:
    """Nested options.

    Args:
        batch_size: a number.
        kind: a text.
    """

    batch_size: int = 1
    kind: str = "plain"


def command(
    *,
    teacher_cache: str | None = None,
    train: Settings = Settings(),
    dry_run: bool = False,
    data: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Something with options.

    Args:
        teacher_cache: a folder.
        train: nested.
        dry_run: a switch.
        data: a mapping.
    """
    return {"teacher_cache": teacher_cache, "train": train, "dry_run": dry_run, "data": data}


def parsed(*argv: str, first: str | None = "recipe") -> dict[str, Any]:
    return call(command, argv, name="command", first=first, examples="  none")


@pytest.mark.parametrize(
    "argv",
    [
        ("--teacher-cache", "my-folder/some_views"),
        ("--teacher_cache", "my-folder/some_views"),
        ("--teacher-cache=my-folder/some_views",),
        ("--teacher_cache=my-folder/some_views",),
    ],
)
def test_a_dash_is_an_underscore_in_names_and_stays_in_values(argv: tuple[str, ...]) -> None:
    assert parsed(*argv)["teacher_cache"] == "my-folder/some_views"


def test_nested_names(tmp_path: Path) -> None:
    recipe = tmp_path / "my-recipe.yaml"
    recipe.write_text("train: {batch_size: 2, kind: a-b}\n")
    values = parsed(str(recipe), "--train.batch-size", "8", "--data.crops-per-image=3", "--data.dataset", "loveda-x")
    assert values["train"] == Settings(batch_size=8, kind="a-b")
    assert values["data"] == {"crops_per_image": 3, "dataset": "loveda-x"}


def test_switches() -> None:
    assert parsed("--dry-run")["dry_run"] is True
    assert parsed("--dry_run")["dry_run"] is True
    assert parsed("--dry-run", "--teacher-cache", "a")["teacher_cache"] == "a"
    assert parsed("--dry-run", "false")["dry_run"] is False
    assert parsed("--dry-run=false")["dry_run"] is False
    assert parsed()["dry_run"] is False


def test_negative_numbers_and_texts_with_dashes_are_values() -> None:
    assert parsed("--train.batch-size", "-3")["train"].batch_size == -3
    assert parsed("--train.kind", "a--b-c")["train"].kind == "a--b-c"


def test_an_unknown_option_is_told_of_with_its_nearest() -> None:
    with pytest.raises(UserError, match="unknown key 'teacher_cash': did you mean 'teacher_cache'"):
        parsed("--teacher-cash", "x")
    with pytest.raises(UserError, match="unknown key 'teacher_cach'"):  # no beginning of an option is that option
        parsed("--teacher-cach", "x")
    with pytest.raises(UserError, match=r"'train.batch_sise': did you mean 'train.batch_size'"):
        parsed("--train.batch-sise", "3")


def test_classes_called_yes_and_no(tmp_path: Path) -> None:
    """As YAML 1.2 has it."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("data: {classes: [no, yes, on, off], flip: false}\n")
    assert parsed(str(recipe))["data"] == {"classes": ["no", "yes", "on", "off"], "flip": False}
    assert parsed("--data", "{classes: [no, yes]}")["data"] == {"classes": ["no", "yes"]}
    assert parsed("--data.classes", "[no, yes]")["data"] == {"classes": ["no", "yes"]}
