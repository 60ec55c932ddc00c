"""The one error a user can cause, and the sentence for a name nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something the user can mend, told in one sentence that names what was found and what was expected.

    The command line prints it and exits with code 2; from Python it is an ordinary ``ValueError``.
    """

    def __init__(self, message: str) -> None:
        # A data-loader worker re-raises an error as its type with the worker's whole traceback as message; the
        # user's sentence stands behind the last name of this class in it.
        if message.startswith("Caught "):
            message = message.rpartition("UserError: ")[2].strip()
        super().__init__(printable(message))


def printable(text: str) -> str:
    r"""``text`` with what no terminal can show escaped: control characters, bytes of file names that are no UTF-8.

    Example:
        >>> printable("a\nb\udcff.png")
        'a\\nb\\udcff.png'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def unknown_name(kind: str, name: object, known: Iterable[str]) -> UserError:
    """The error for a ``name`` that is not among the ``known`` ones of its ``kind``.

    Example:
        >>> print(unknown_name("method", "brb", ["kd", "brd", "drd"]))
        unknown method 'brb': did you mean 'brd'? Known: brd, drd, kd
    """
    names = sorted(known)
    lowered = {candidate.lower(): candidate for candidate in names}
    close = difflib.get_close_matches(str(name).lower(), list(lowered), n=1, cutoff=0.5)
    hint = f": did you mean '{lowered[close[0]]}'?" if close else "."
    return UserError(f"unknown {kind} '{name}'{hint} Known: {', '.join(names)}")
