"""``segdistill methods``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segdistill.cli.parsing import call
from segdistill.naming import check_name

EXAMPLES = """\
  segdistill methods
  segdistill methods brd"""


@dataclass(frozen=True)
class MethodsOptions:
    """Which methods to show.

    Args:
        name: name of the method to show: a built-in one, one of an installed package, or python:module:Name; without a
            name, all methods are listed.
    """

    name: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None:
            check_name("method", self.name)


def methods(options: MethodsOptions) -> None:
    """List the distillation methods, or show one: formula, hyper-parameters and presets."""
    from rich.console import Console

    from segdistill.methods.catalogue import page_of_method, table_of_methods

    Console().print(table_of_methods() if options.name is None else page_of_method(options.name))


def run(argv: Sequence[str]) -> None:
    """Print the table, or one method's page."""
    call(
        "segdistill.cli.methods:methods",
        argv,
        kinds=(MethodsOptions,),
        name="methods",
        summary="List the distillation methods, or show one: formula, hyper-parameters and presets.",
        examples=EXAMPLES,
    )
