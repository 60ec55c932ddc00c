"""``segdistill methods``."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from segdistill.cli.parsing import call
from segdistill.methods import METHODS


def methods() -> None:
    """Lists the distillation methods with their hyper-parameters and defaults."""
    table = Table(show_lines=True)
    for column in ("method", "what it carries over", "hyper-parameters"):
        table.add_column(column)
    for name, method in METHODS.items():
        module = inspect.getdoc(inspect.getmodule(method)) or ""
        parameters = inspect.signature(method).parameters.values()
        values = ", ".join(f"{parameter.name}={parameter.default!r}" for parameter in parameters)
        table.add_row(name, module.partition(": ")[2].partition("\n")[0], values)
    Console().print(table)


def run(argv: Sequence[str]) -> None:
    """Prints the list."""
    call(methods, argv, name="methods", first=None, examples="  segdistill methods")
