"""How options are written on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from segdistill.cli.parsing import call
from segdistill.errors import UserError
from segdistill.recipe.recipes import TrainRecipe


@dataclass(frozen=True)
class Settings:
    """Nested options.

    Args:
        batch_size: a number.
        kind: a text.
    """

    batch_size: int = 1
    kind: str = "plain"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Something with options.

    Args:
        teacher_cache: a folder.
        train: nested.
        dry_run: a switch.
        data: a mapping.
        threads: a list.
        output: a file.
    """

    teacher_cache: str | None = None
    train: Settings = field(default_factory=Settings)
    dry_run: bool = False
    data: dict[str, Any] | None = None
    threads: list[int] | None = None
    output: str | None = None


@dataclass(frozen=True)
class Leading:
    """Something whose first arguments need no names.

    Args:
        model: one.
        input: several.
        output: a file.
    """

    model: str
    input: list[str | Path] | str
    _: KW_ONLY
    output: str = "out"


def given(options: Any) -> Any:
    return options


def parsed(*argv: str, kind: type[Any] = Options, check: Callable[..., None] | None = None) -> Any:
    place = f"{__name__}:given"
    return call(place, argv, kinds=(kind,), name="command", summary="Do it.", examples="  none", check=check)


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
    assert parsed(*argv).teacher_cache == "my-folder/some_views"


def test_nested_names() -> None:
    values = parsed("--train.batch-size", "8", "--data.crops-per-image=3", "--data.dataset", "loveda-x")
    assert values.train == Settings(batch_size=8)
    assert values.data == {"crops_per_image": 3, "dataset": "loveda-x"}


@pytest.mark.parametrize("argv", [("-o", "a-b"), ("-o=a-b",), ("--output", "a-b"), ("--output=a-b",)])
@pytest.mark.parametrize("kind", [Options, Leading])
def test_output_is_written_alike_everywhere(argv: tuple[str, ...], kind: type[Any]) -> None:
    leading = ("m", "i") if kind is Leading else ()
    assert parsed(*leading, *argv, kind=kind).output == "a-b"


@pytest.mark.parametrize("argv", [("--threads", "1,2"), ("--threads=1,2",), ("--threads", "[1, 2]")])
def test_lists_need_no_brackets(argv: tuple[str, ...]) -> None:
    assert parsed(*argv, "--dry-run") == Options(threads=[1, 2], dry_run=True)
    assert parsed("--threads", "1").threads == [1]


def test_what_comes_first_needs_no_name() -> None:
    assert parsed("m", "a", "b c", "-o", "x", kind=Leading) == Leading("m", ["a", "b c"], output="x")
    assert parsed("m", "--input", "a*", kind=Leading) == Leading("m", "a*")
    with pytest.raises(UserError, match=r"input missing; expected segdistill command MODEL INPUT\.\.\.;"):
        parsed("m", kind=Leading)
    with pytest.raises(UserError, match="expected options such as --name value, found m"):
        parsed("m")


def test_switches() -> None:
    assert parsed("--dry-run").dry_run is True
    assert parsed("--dry_run").dry_run is True
    assert parsed("--dry-run", "--teacher-cache", "a").teacher_cache == "a"
    assert parsed("--dry-run", "false").dry_run is False
    assert parsed("--dry-run=false").dry_run is False
    assert parsed().dry_run is False


def test_negative_numbers_and_texts_with_dashes_are_values() -> None:
    assert parsed("--train.batch-size", "-3").train.batch_size == -3
    assert parsed("--train.kind", "a--b-c").train.kind == "a--b-c"


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
    recipe.write_text("network: x\ndata: {classes: [no, yes, on, off], flip: false}\n")
    made = parsed(str(recipe), kind=TrainRecipe, check=lambda recipe: None)
    assert made.data == {
        "classes": ["no", "yes", "on", "off"],
        "flip": False,
    }
    assert parsed("--data", "{classes: [no, yes]}").data == {"classes": ["no", "yes"]}
    assert parsed("--data.classes", "[no, yes]").data == {"classes": ["no", "yes"]}


def test_a_tilde_that_no_shell_has_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    data = "{dataset: folder, root: ~/data, classes: [a~/b]}"
    made = parsed("--teacher_cache", "transformers:~/net", "--output=~/runs/a", "--data", data)
    assert (made.teacher_cache, made.output) == ("transformers:/home/me/net", "/home/me/runs/a")
    assert made.data == {"dataset": "folder", "root": "/home/me/data", "classes": ["a~/b"]}


def test_environment_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe of a cluster says $SCRATCH; without this a run went into a folder of that very name."""
    monkeypatch.setenv("SCRATCH", "/scratch/me")
    monkeypatch.delenv("NOWHERE", raising=False)
    data = "{dataset: folder, root: '${SCRATCH}/data', classes: [US$, $SCRATCHED]}"
    monkeypatch.setenv("SCRATCHED", "scratched")
    made = parsed("--teacher_cache", "/fast/$SCRATCHED/cache", "--output=$SCRATCH/a", "--data", data)
    assert (made.teacher_cache, made.output) == ("/fast/scratched/cache", "/scratch/me/a")
    assert made.data["root"] == "/scratch/me/data"
    with pytest.raises(UserError, match=r"^\$NOWHERE/a names the environment variable NOWHERE, which is not set$"):
        parsed("--data", data, "--output", "$NOWHERE/a")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "US$NOWHERE" / "a").mkdir(parents=True)
    assert parsed("--data", data, "--output", "US$NOWHERE/a").output == "US$NOWHERE/a"


@pytest.mark.parametrize("name", ["config.yaml", "recipe.yaml"])
def test_a_folder_stands_for_the_recipe_in_it(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{data: {dataset: synthetic-aerial}, network: 'smp:FPN:resnet18', seed: 3}")
    made = parsed(str(tmp_path), kind=TrainRecipe)
    assert (made.network, made.seed) == ("smp:FPN:resnet18", 3)
