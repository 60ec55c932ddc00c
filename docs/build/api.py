"""The page of all public names, from their signatures and docstrings.

mkdocstrings does not fit: it shows neither signatures that are made when the code is imported (those of `train`,
`predict` and so on come from dataclasses), nor names that are imported when they are first used.
"""

from __future__ import annotations

import inspect
import re
import types
from typing import Any

from latex2mathml.converter import convert

import segdistill

#: The order of the public names; those that stand nowhere here come last.
GROUPS = {
    "Runs": ("train", "distill", "pretrain", "RunOptions", "RunFolder"),
    "Recipes": ("DistillRecipe", "TrainRecipe", "PretrainRecipe", "TrainConfig"),
    "Data": ("check_data", "preview_data", "data_statistics", "datasets"),
    "Networks": ("load_network", "load_run", "as_network", "Network", "NetworkInfo", "Tap", "Features"),
    "Teachers": ("Ensemble", "MappedClasses", "SelectedBands"),
    "A training loop of your own": ("Distiller", "LearnerOutput", "Supervised", "losses", "methods"),
    "Scores and comparisons": ("evaluate", "compare", "load_comparison", "Comparison", "advise", "Advice"),
    "Use": ("predict", "label", "export", "benchmark", "play", "demo"),
    "Errors": ("UserError",),
}
_SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Example")


#: The modules among the public names: each has a page of its own.
MODULES = tuple(name for name in segdistill.__all__ if isinstance(getattr(segdistill, name), types.ModuleType))


def api() -> str:
    """Return the page of all public names."""
    grouped = {name for names in GROUPS.values() for name in names}
    others = tuple(sorted(set(segdistill.__all__) - grouped - {"__version__"}))
    pages = ", ".join(f"[{name}]({place(name)})" for name in MODULES)
    text = f"# Python API\n\nAll names of `import segdistill`. Its modules have pages of their own: {pages}.\n"
    for title, names in {**GROUPS, "More": others}.items():
        if names:
            text += f"\n## {title}\n" + "".join(_entry(f"segdistill.{name}", _get(name)) for name in names)
    return text


def module(name: str) -> str:
    """Return the page of a module's public names."""
    thing = _get(name)
    members = [(one, getattr(thing, one)) for one in thing.__all__]
    entries = "".join(_entry(f"{name}.{one}", value) for one, value in members if callable(value))
    # Short names, which fit into the table of contents.
    entries = entries.replace("\n###", "\n##").replace(f"\n## {name}.", "\n## ")
    return f"# Python API: {name}\n\nNames of `segdistill.{name}`. {documented(thing)}\n{entries}"


def place(name: str) -> str:
    """Return the file name of a module's page."""
    return f"api-{name}.md"


def _get(name: str) -> Any:
    return getattr(segdistill, name)


def _entry(name: str, thing: Any) -> str:
    """One name with what belongs to it."""
    if isinstance(thing, types.ModuleType):
        page = place(name.rpartition(".")[2])
        return f"\n### {name}\n\n{escaped((inspect.getdoc(thing) or '').splitlines()[0])} [All names]({page}).\n"
    text = f"\n### {name}\n\n{_signature(name, thing)}{documented(thing)}\n"
    if isinstance(thing, type):
        for one, value in vars(thing).items():
            if not one.startswith("_") and inspect.getdoc(value) and _is_method(value):
                function = getattr(thing, one) if isinstance(value, classmethod | staticmethod) else value
                short = f"{thing.__name__}.{one}"
                shown = "" if isinstance(value, property) else _signature(short, function)
                text += f"\n#### {short}\n\n{shown}{documented(function)}\n"
    return text


def _is_method(value: Any) -> bool:
    return isinstance(value, classmethod | staticmethod | property | types.FunctionType)


def _signature(name: str, thing: Any) -> str:
    """Return a block with the call, an argument a line where it is long."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):  # an exception class has none
        return ""
    short = name.removeprefix("segdistill.")
    shown = [one.replace(annotation=_plain(one)) for one in signature.parameters.values() if one.name != "self"]
    # Through a signature, which puts "/" and "*" between the arguments.
    parameters = _split(str(inspect.Signature([_with_default(one) for one in shown]))[1:-1])
    line = f"{short}({', '.join(parameters)})"
    if len(line) > 80:
        line = f"{short}(\n    " + ",\n    ".join(parameters) + "\n)"
    return f"```text\n{line}\n```\n\n"


def _split(arguments: str) -> list[str]:
    """Return arguments one by one: what stands between those commas that are in no brackets and no quotes."""
    pieces = [""]
    for piece in arguments.split(", "):
        pieces[-1] += piece
        whole = re.sub(r"'[^']*'", "", pieces[-1])
        if all(whole.count(left) == whole.count(right) for left, right in ("()", "[]", "{}")):
            pieces.append("")
        else:
            pieces[-1] += ", "
    return [one for one in pieces if one]


def _with_default(parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter whose default reads as in the source: a function's name, or the call that makes it anew."""
    if isinstance(parameter.default, types.FunctionType):
        return parameter.replace(default=_Text(parameter.default.__name__))
    if str(parameter.default) == "<factory>":
        return parameter.replace(default=_Text(f"{parameter.annotation}()"))
    return parameter


def _plain(parameter: inspect.Parameter) -> Any:
    """An annotation as it reads in the source."""
    if parameter.annotation is parameter.empty:
        return parameter.empty
    named = parameter.annotation
    text = named if isinstance(named, str) else inspect.formatannotation(named)
    return _Text(re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text))


class _Text(str):
    """A text that `inspect` shows without quotes."""

    def __repr__(self) -> str:
        return str(self)


def documented(thing: Any) -> str:
    """Return a docstring in Markdown: sections as lists, examples as code."""
    text = inspect.getdoc(thing) or ""
    parts = re.split(rf"^({'|'.join(_SECTIONS)}):\n", text, flags=re.MULTILINE)
    shown = _text(parts[0])
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        inner, rest = _indented(body)
        if title in ("Returns", "Yields"):
            shown += f"\n\n**{title}**\n\n{_text(inner)}"
        elif title == "Example":
            shown += f"\n\n**Example**\n\n```pycon\n{inner.rstrip()}\n```"
        else:
            shown += f"\n\n**{title}**\n\n" + _entries(inner)
        shown += f"\n\n{_text(rest)}" if rest.strip() else ""
    return shown


def _text(text: str) -> str:
    """Return the text of a docstring in Markdown: paragraphs, indented code, and formulas."""
    return "\n\n".join(map(_paragraph, text.strip("\n").split("\n\n")))


def _paragraph(text: str) -> str:
    if text.startswith(".. math:: "):
        return f'<div class="formula">{_formula(text.removeprefix(".. math:: "), display="block")}</div>'
    return text if text.startswith("    ") else escaped(text.strip())


def _formula(text: str, display: str = "inline") -> str:
    """Return a LaTeX formula as MathML, which browsers show without a script."""
    text = (
        " ".join(text.split()).replace(r"\Big\|", r"\|").replace(r"\big\|", r"\|")
    )  # which the converter does not know
    return convert(text, display=display)


def _indented(body: str) -> tuple[str, str]:
    """The indented lines of a section, without their indent, and what follows it."""
    lines = body.split("\n")
    end = next((index for index, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    return inspect.cleandoc("\n".join(lines[:end])), "\n".join(lines[end:])


def _entries(text: str) -> str:
    """Each unindented line of a section as an entry of a list."""
    joined = re.sub(r"\n +", " ", text)
    lines = []
    for line in filter(None, joined.split("\n")):
        name, colon, meaning = line.partition(": ")
        named = colon and re.fullmatch(r"[\w.* ]+", name) and " " not in name
        lines.append(f"* `{name}`: {escaped(meaning)}" if named else f"* {escaped(line)}")
    return "\n".join(lines)


def escaped(text: str) -> str:
    """Return a text whose markup characters stay as they are, but for code between backticks and emphasis by stars."""
    text = re.sub(r":(?!math:)\w+:`([\w.]+)`", r"`\1`", text).replace("``", "`")
    pieces = re.split(r"((?::math:)?`[^`]*`)", text)
    return "".join(_escaped_piece(one) for one in pieces)


def _escaped_piece(text: str) -> str:
    if text.startswith(":math:`"):
        return _formula(text[7:-1])
    return text if text.startswith("`") else re.sub(r"([_\[\]<{}|])", r"\\\1", text)
