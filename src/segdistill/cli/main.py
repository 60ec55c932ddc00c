"""The command ``segdistill``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from segdistill.errors import UserError, unknown_name

COMMANDS = {
    "train": "train a network from labels alone: a teacher, or a baseline",
    "distill": "distil a trained teacher into a small student",
    "evaluate": "score a network on a split",
    "methods": "list the distillation methods",
    "demo": "see it all on built-in synthetic aerial scenes, in minutes",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, or 2 for an error that the user can mend."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    command = arguments[0]
    try:
        if command not in COMMANDS:
            raise unknown_name("command", command, COMMANDS)
        importlib.import_module(f"segdistill.cli.{command}").run(arguments[1:])
    except UserError as error:
        print(f"segdistill: {error}", file=sys.stderr)
        return 2
    return 0


def _overview() -> str:
    lines = [f"  {name:<10} {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "usage: segdistill COMMAND [...]",
            "",
            "A large segmentation network and your images in; a small, fast one out.",
            "",
            *lines,
            "",
            "segdistill COMMAND --help shows a command's options and examples.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
