"""What there is to know of the distillation methods: a table of all, and a page of each."""

from __future__ import annotations

import inspect
import re
from typing import Any

from rich.console import Group
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from segdistill.methods import METHODS, Method
from segdistill.naming import known_names, resolve

_NEEDS = ("labels", "stages", "embedding", "logits")
_CAPTION = (
    "needs: labels of the images; of both networks: stages (feature maps of the backbone), embedding (the last feature "
    "map before the classifier), logits (scores of the same classes). cost: time of a training step, teacher included, "
    "divided by that of the same step without the method. segdistill methods NAME shows one with its formula and "
    "hyper-parameters."
)


def needs(method: Method | type[Method]) -> list[str]:
    """What a method needs with its hyper-parameters, of: labels, stages, embedding, logits.

    Example:
        >>> from segdistill.methods import BRD
        >>> needs(BRD())
        ['stages', 'embedding', 'logits']
        >>> needs(BRD(boundary=0.0, kd=0.0))
        ['embedding']
    """
    return [name for name in _NEEDS if getattr(method, f"needs_{name}")]


def table_of_methods() -> Table:
    """Make the table of all methods, with default hyper-parameters; those of installed packages come last.

    Columns: name, what the method transfers, paper, year, what it needs, and cost: the time of a training step with a
    live teacher over that of the same step without the method.
    """
    table = Table(show_lines=True, caption=_CAPTION, caption_justify="left")
    for column in ("method", "what it transfers", "paper", "year", "needs"):
        table.add_column(column, no_wrap=column in ("method", "year"))
    table.add_column("cost", justify="right", no_wrap=True)
    for name in (*METHODS, *(name for name in known_names("method") if name not in METHODS)):
        kind = resolve("method", name)
        cost = "" if kind.cost is None else f"{kind.cost:.3f}"
        table.add_row(name, summary(kind), kind.paper, str(kind.year or ""), ", ".join(needs(_by_default(kind))), cost)
    return table


def page_of_method(name: str) -> Group:
    """Make the page of one method: formula, presets and default hyper-parameters.

    Args:
        name: the method's name, as a recipe writes it; see `resolve`.

    Raises:
        UserError: for an unknown name.
    """
    kind: type[Method] = resolve("method", name)
    method = _by_default(kind)
    text, _, arguments = (inspect.getdoc(kind) or "").partition("\nArgs:\n")
    parts: list[Any] = [
        Markdown(f"# {name}: {summary(kind)}\n\n{text}\n\n{_facts(method)}"),
        _defaults(method, _descriptions(arguments)),
    ]
    if kind.presets:
        parts.append(_presets(kind))
    parts += [Text(line) for line in _use(name, method)]
    return Group(*parts)


def _use(name: str, method: Method | type[Method]) -> list[str]:
    """How a hyper-parameter is set, by the example of the first one; nothing where none has a default."""
    values = {} if isinstance(method, type) else method.hyper_parameters()
    written = next((f"{{{name}: {{{one}: {_written(value)}}}}}" for one, value in values.items()), None)
    return [] if written is None else [f"in a recipe: method: {written}", f"on the command line: --method '{written}'"]


def _facts(method: Method | type[Method]) -> str:
    """What a method needs, compares and costs, in sentences."""
    needed = needs(method)
    facts = [f"Needs {', '.join(needed)}." if needed else "Needs nothing in particular."]
    if method.family:
        facts.append(f"Family: {method.family}.")
    if method.cost is not None:
        facts.append(f"A training step takes {method.cost:.3f} times as long as without the method, teacher included.")
    return " ".join(facts)


def summary(kind: type[Method]) -> str:
    """What a method transfers, in one phrase: the first line of its file, or of its class where that is not ours."""
    ours = kind.__module__.startswith("segdistill.methods.")
    first = (inspect.getdoc(inspect.getmodule(kind) if ours else kind) or "").partition("\n")[0]
    return (first.partition(": ")[2] if ours else first).rstrip(".")


def _by_default(kind: type[Method]) -> Method | type[Method]:
    """The method with default hyper-parameters; the class, where one of another package has an argument without."""
    required = [one for one in inspect.signature(kind).parameters.values() if one.default is one.empty]
    return kind if required else kind()


def _descriptions(arguments: str) -> dict[str, str]:
    """Description of each argument, from the "Args" of a docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc(arguments).splitlines():
        if line[:1].strip():
            name, _, rest = line.partition(": ")
            found[name] = rest.strip()
        else:
            found[name] = f"{found[name]} {line.strip()}".strip()
    return {name: _as_in_yaml(text) for name, text in found.items()}


def _as_in_yaml(text: str) -> str:
    """A description of an argument for somebody who writes a recipe.

    Example:
        >>> _as_in_yaml("at most `k`; None for all")
        'at most k; null for all'
    """
    return re.sub(r"\bNone\b(?=:| for\b)", "null", text.replace("`", ""))


def _defaults(method: Method | type[Method], descriptions: dict[str, str]) -> Table:
    table = Table(title="hyper-parameters", title_justify="left")
    for column in ("name", "default", "meaning"):
        table.add_column(column, no_wrap=column == "name")
    for name, one in inspect.signature(method if isinstance(method, type) else type(method)).parameters.items():
        default = "required" if one.default is one.empty else _written(getattr(method, name, one.default))
        table.add_row(name, default, descriptions.get(name, ""))
    return table


def _presets(kind: type[Method]) -> Table:
    table = Table(title="presets", title_justify="left")
    table.add_column("preset")
    names = list(dict.fromkeys(name for values in kind.presets.values() for name in values))
    for name in names:
        table.add_column(name, justify="right")
    for preset, values in kind.presets.items():
        table.add_row(preset, *(_written(values[name]) for name in names))
    return table


def _written(value: Any) -> str:
    """As in a recipe."""
    return "null" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
