"""``segdistill methods``."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from segdistill.cli.parsing import call


def methods(name: str | None = None) -> None:
    """List the distillation methods, or show one: formula, hyper-parameters and presets.

    Args:
        name: the method to show; a table of all without one.
    """
    from segdistill.methods.catalogue import page_of_method, table_of_methods

    Console().print(table_of_methods() if name is None else page_of_method(name))


def run(argv: Sequence[str]) -> None:
    """Print the table, or one method's page."""
    call(methods, argv, name="methods", first="name", examples="  segdistill methods\n  segdistill methods brd")
