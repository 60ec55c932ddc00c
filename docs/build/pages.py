"""Pages that are made from the code: keys of a recipe, commands, public names. Nothing in them is written by hand."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from typing import Any

from api import MODULES, api, escaped, module, place
from licences import licences

from segdistill.cli.data import COMMANDS as DATA_COMMANDS
from segdistill.cli.main import COMMANDS, main
from segdistill.data.augmentation import Augmentation
from segdistill.datasets import DATASETS
from segdistill.methods import METHODS
from segdistill.methods.catalogue import needs, summary
from segdistill.recipe.data import Data
from segdistill.recipe.data_keys import AUGMENTING
from segdistill.recipe.keywords import field_help
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.recipe.train_config import TrainConfig
from segdistill.training.options import RunOptions


def recipe_keys() -> str:
    """Return the page of every key that a recipe may have."""
    text = """# Keys of a recipe

Made from the code that reads them. On the command line `--train.lr 0.01` sets the key `lr` in `train`.
"""
    for kind, title in ((DistillRecipe, "`segdistill distill`"), (TrainRecipe, "`segdistill train`")):
        text += f"\n## Keys for {title}\n\n{_table(_fields(kind))}"
    text += f"\n## Keys in `train`\n\n{_table(_fields(TrainConfig))}"
    text += "\n## Keys in `data`, for every data set\n\n"
    shared = [row for row in _arguments(Augmentation) if row[0] in AUGMENTING]
    of_first = ("crop", "list of numbers or none", "the first image's size, at most 512")
    shared = [(*of_first, row[3]) if row[0] == "crop" else row for row in shared]
    about = field_help(Data)
    shared += [
        ("dataset", "name", "required", f"{', '.join(f'`{name}`' for name in DATASETS)}, or `python:module:Name`"),
        ("decoded_cache", "text", "none", about["decoded_cache"]),
        ("statistics", "file", "none", f"{about['statistics']} Made by `segdistill data stats`."),
    ]
    text += _table(sorted(shared, key=lambda row: row[0] != "dataset"))
    for name, kind in DATASETS.items():
        text += f"\n## Keys in `data` for `{name}`\n\n{_first_paragraph(kind)}\n\n"
        text += _table([row for row in _arguments(kind) if row[0] != "split"])
    text += "\n## Options that are no keys of a recipe\n\n"
    text += "They change where and how a run is carried out, not its result.\n\n"
    return text + _table(_fields(RunOptions))


Row = tuple[str, str, str, str]


def _fields(kind: type[Any]) -> list[Row]:
    """Name, type, default and meaning of each field of a dataclass."""
    texts = field_help(kind)
    rows = []
    for field in fields(kind):
        required = field.default is MISSING and field.default_factory is MISSING
        default = "required" if required else "see below" if field.default is MISSING else _plain(field.default)
        rows.append((field.name, _type(field.type), default, texts[field.name]))
    return rows


def _arguments(kind: type[Any]) -> list[Row]:
    """Name, type, default and meaning of each argument of a class."""
    texts = field_help(kind)
    return [
        (name, _type(one.annotation), "required" if one.default is one.empty else _plain(one.default), texts[name])
        for name, one in inspect.signature(kind).parameters.items()
        if name != "ignore_index"
    ]


def _table(rows: list[Row]) -> str:
    if not rows:
        return "None.\n"
    lines = [f"| `{name}`<br>{kind} | {_cell(default)} | {_cell(meaning)} |\n" for name, kind, default, meaning in rows]
    return "| key and type | default | meaning |\n|---|---|---|\n" + "".join(lines)


def _cell(text: str) -> str:
    """Return a text that may stand in a cell of a table."""
    return escaped(text).replace("`|`", "`\\|`")


#: How the types of the code are called in a table.
_WORDS = (
    (r"\bDataSpec\b", "mapping"),
    (r"\bTeacherSpec\b", "text, list or mapping"),
    (r"\bMethodSpec\b", "name, list or mapping"),
    (r"\bLossWeights\b", "fixed, auto or mapping"),
    (r"\bLossSpec\b", "name or mapping"),
    (r"\bSource\b", "text"),
    (r"\bTrainConfig\b", "mapping"),
    (r"\bStrategy\b", "auto, ddp, fsdp"),
    (r"\bTracker\b", "wandb, mlflow"),
    (r"\bResume\b", "true, false or folder"),
    (r"(Sequence|list)\[(str \| )?Sequence\[int\]\]|Sequence\[str \| Sequence\[int\]\]", "list of colours"),
    (r"(Sequence|list)\[(int|float)\]", "list of numbers"),
    (r"(Sequence|list)\[str\]", "list of names"),
    (r"(Sequence|list)\[Any\]", "list"),
    (r"(dict|Mapping)\[\w+, \w+\]", "mapping"),
    (r"\bstr \| Path\b", "path"),
    (r"Sequence\[path\]", "list of paths"),
    (r"\bstr\b", "text"),
    (r"\bint\b", "whole number"),
    (r"\bfloat\b", "number"),
    (r"\bbool\b", "true or false"),
    (r"\bNone\b", "null"),
)


def _type(annotation: Any) -> str:
    text = str(annotation)
    text = re.sub(r"Literal\[([^\]]*)\]", lambda found: found[1].replace("'", "").replace('"', ""), text)
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text)
    *others, last = re.split(r", | or | \| ", text)
    return f"{', '.join(others)} or {last}" if others else last


def _plain(value: Any) -> str:
    """Return a default as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _first_paragraph(kind: type[Any]) -> str:
    return escaped((inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " "))


def commands() -> str:
    """Return the page of all commands, each with what its --help prints."""
    text = "# Commands\n\nWhat `segdistill COMMAND --help` prints.\n"
    lines = [[name] for name in COMMANDS if name != "data"] + [["data", name] for name in DATA_COMMANDS]
    for line in lines:
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
            main([*line, "--help"])
        text += f"\n## segdistill {' '.join(line)}\n\n``` {{.text .columns}}\n{shown.getvalue().rstrip()}\n```\n"
    return text


def methods() -> str:
    """Return the table of the methods, each with a link to its page beside the table's."""
    lines = ["| method | what it transfers | needs | family | paper | year |", "|---|---|---|---|---|---|"]
    for name, kind in METHODS.items():
        cells = (f"[`{name}`]({name}.md)", summary(kind), ", ".join(needs(kind())), kind.family, kind.paper, kind.year)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


#: Path below docs/, and what makes the page.
GENERATED: dict[str, Callable[[], str]] = {
    "reference/api.md": api,
    **{f"reference/{place(name)}": partial(module, name) for name in MODULES},
    "reference/recipe-keys.md": recipe_keys,
    "reference/commands.md": commands,
    "reference/licences.md": licences,
}
