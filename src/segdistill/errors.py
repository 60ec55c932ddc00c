"""The one error a user can cause, the sentence for a name nobody knows, and other libraries' messages made readable."""

from __future__ import annotations

import difflib
import re
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


class NoSplitError(UserError):
    """A split that a data set does not have, unlike one that it has and that cannot be read."""


def printable(text: str) -> str:
    r"""``text`` with what no terminal can show escaped: control characters, bytes of file names that are no UTF-8.

    Example:
        >>> printable("a\nb\udcff.png")
        'a\\nb\\udcff.png'
    """
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


_ESCAPE_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]")
_SENTENCE_END = re.compile(r"(?<!e\.g)(?<!i\.e)(?<!etc)[.!?](?=\s+[^a-z\s])")
_PLACES_IN_SOURCE = ("Exception from ", "Check '", "Traceback ", 'File "')
_LONGEST = 300


def reason(error: BaseException) -> str:
    """The message of another library's error as one readable sentence, to be put into one of ours.

    Terminal escape codes and places in source code go; lines are joined; of several sentences the first stays, whole,
    without its full stop. An error without a message gives its type.

    Example:
        >>> reason(RuntimeError("\\x1b[1mShape mismatch\\x1b[0m at\\n  layer 3. See our docs.\\n"))
        'Shape mismatch at layer 3'
    """
    if isinstance(error, KeyError) and error.args:
        text = f"{error.args[0]} is missing"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error)
    lines = [line.strip() for line in _ESCAPE_CODES.sub("", text).splitlines()]
    told = [line for line in lines if line and not line.startswith(_PLACES_IN_SOURCE)] or [
        line for line in lines if line
    ]
    joined = " ".join(" ".join(told).split()) or type(error).__name__
    end = _SENTENCE_END.search(joined)
    sentence = (joined if end is None else joined[: end.start()]).rstrip(".")
    if len(sentence) > _LONGEST:
        sentence = f"{sentence[:_LONGEST].rsplit(' ', 1)[0]} ..."
    return sentence


def missing_package(purpose: str, package: str, extra: str) -> UserError:
    """The error for an optional package that is not installed.

    Args:
        purpose: what it is needed for, the beginning of the sentence.
        package: its name, as on PyPI.
        extra: the extra of segdistill that brings it.

    Example:
        >>> print(missing_package("vector", "pyogrio", "geo"))
        vector needs the package pyogrio: pip install 'segdistill[geo]'
    """
    return UserError(f"{purpose} needs the package {package}: pip install 'segdistill[{extra}]'")


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
