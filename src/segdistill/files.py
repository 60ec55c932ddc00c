"""Files of a run: written so that a kill leaves the old file or the new one, never half; YAML read back; hashes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml

from segdistill.errors import UserError

#: How the name of a file ends that is being written; only a kill leaves one behind.
UNFINISHED = ".part"


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Lets ``write`` fill a temporary file in the folder of ``path``, then puts it in its place.

    Raises:
        UserError: if the folder cannot be written to or the disk is full; the old file stays as it was.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=UNFINISHED)
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, permissions())
        os.replace(temporary, path)
        temporary = None
    except (FileExistsError, NotADirectoryError) as error:  # mkdir's words for it
        raise UserError(f"cannot write {path}: one of its folders is a file") from error
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def as_path(given: str | os.PathLike[str], name: str) -> Path:
    """The path that a caller gives, as an argument called ``name``.

    Raises:
        UserError: it is neither text nor a path.

    Example:
        >>> as_path("data/camvid", "root").parts
        ('data', 'camvid')
    """
    if not isinstance(given, str | os.PathLike) or isinstance(os.fspath(given), bytes):
        raise UserError(f"{name} is {given!r}, expected a path, as a str or a pathlib.Path")
    return Path(given)


def digest(*paths: Path) -> str:
    """A hash, in hexadecimal, of what the files hold, one after the other."""
    hasher = hashlib.blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as stream:
            while chunk := stream.read(2**20):
                hasher.update(chunk)
    return hasher.hexdigest()


def permissions() -> int:
    """The mode of any new file; temporary files are private to the user, and a run's files are not meant to be.

    The process's umask is not touched, not even for a moment: other threads may be making files.
    """
    status = Path("/proc/self/status")
    found = re.search(r"^Umask:\s+([0-7]+)$", status.read_text(), re.MULTILINE) if status.exists() else None
    if found is not None:
        return 0o666 & ~int(found[1], 8)
    with tempfile.TemporaryDirectory() as folder:
        handle = os.open(Path(folder) / "new", os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            return stat.S_IMODE(os.fstat(handle).st_mode)
        finally:
            os.close(handle)


@contextmanager
def environment(**defaults: str) -> Iterator[None]:
    """Within, environment variables that the user has not set have these values; afterwards they are unset again."""
    ours = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def only_true_and_false(loader: type[Any]) -> None:
    """Let a YAML loader read yes, no, on and off as texts, as YAML 1.2 does: classes may be called so."""
    kept = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in loader.yaml_implicit_resolvers.items()
    }
    loader.yaml_implicit_resolvers = kept
    loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:[tT]rue|TRUE|[fF]alse|FALSE)$"), "tTfF")


class _OnceEach(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping; YAML's own way is to forget the first silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.MarkedYAMLError(problem=f"the key '{key}' stands twice", problem_mark=mark)
        return super().construct_mapping(node, deep)


only_true_and_false(_OnceEach)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: if the file is missing, cannot be read, is no YAML, or holds something else than a mapping.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _OnceEach)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"cannot read {path}: {_told(error)}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"{path} holds {found}, expected a mapping of keys to values")
    return values


def _told(error: OSError | UnicodeDecodeError | yaml.YAMLError) -> str:
    """Why a YAML file cannot be read, and in which line."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    hint = "; indent with blanks, not with tabs" if "'\\t'" in str(error.problem) else ""
    found = " ".join(part for part in (error.context, error.problem) if part)
    return f"{found} in line {mark.line + 1}, column {mark.column + 1}{hint}"


def recipe_file(path: Path) -> Path:
    """The recipe that a user names: a file, or the one in the folder of a run, of a comparison or of pseudo-labels.

    Raises:
        UserError: a folder that holds none.
    """
    if not path.is_dir():
        return path
    names = ("config.yaml", "recipe.yaml")
    found = next((path / name for name in names if (path / name).is_file()), None)
    if found is None:
        raise UserError(
            f"{path} is a folder without config.yaml, expected a recipe or the folder of a run; a folder of images and "
            f"masks is named by data: {{dataset: folder, root: {path}, classes: [...]}}"
        )
    return found


def as_typed(value: Any) -> Any:
    """Values as if they were typed into a shell: numpy's numbers and arrays plain, ``~`` and variables replaced.

    A ``~`` that begins a path is the home folder; environment variables, ``$NAME`` or ``${NAME}``, stand anywhere in a
    path.

    Raises:
        UserError: a variable that is not set, in a path that does not exist as it is written.

    Example:
        >>> as_typed(["a~/b", "US$", "$c$", {"root": "~"}])[:3]
        ['a~/b', 'US$', '$c$']
    """
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):  # which is not imported for this
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_typed(one) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(as_typed(one) for one in value)
    if isinstance(value, Path):
        return Path(as_typed(str(value)))
    if not isinstance(value, str):
        return value
    begins = re.match(r"((?:\w+:)?)(~)(?=/|$)", value)
    text = value if begins is None else f"{begins[1]}{Path.home()}{value[begins.end() :]}"
    return _VARIABLE.sub(_value_of, text) if "/" in text or _VARIABLE.fullmatch(text) else text


_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def _value_of(found: re.Match[str]) -> str:
    """An environment variable in a path."""
    name = found[1] or found[2]
    if not os.environ.get(name) and not os.path.exists(found.string):
        raise UserError(f"{found.string} names the environment variable {name}, which is not set")
    return os.environ.get(name) or found[0]


def bytes_of(text: str) -> bytes:
    r"""Text as UTF-8, with the bytes of file names that are none as they are in the name.

    Example:
        >>> bytes_of("ü\udcff")
        b'\xc3\xbc\xff'
    """
    return text.encode("utf-8", "surrogateescape")


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda file: file.write(bytes_of(text)))


def check_json_file(path: str | Path, option: str) -> None:
    """Raises a `UserError` unless a file that a user names for JSON is named so: another would be replaced by it."""
    if Path(path).suffix.lower() != ".json":
        raise UserError(f"{option} is {path}, expected the name of a file that ends in .json")


def files_below(folder: Path) -> list[Path]:
    """Every file in and below ``folder``, sorted; linked folders are followed, but none that leads back up."""
    found: list[Path] = []
    above: dict[str, set[str]] = {}
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        parents = above.get(os.path.dirname(place), set())
        if real in parents:
            folders.clear()
            continue
        above[place] = parents | {real}
        found += [Path(place, name) for name in files]
    return sorted(found)


def write_json(path: Path, values: Any) -> None:
    """Writes plain values as JSON, atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_yaml(path: Path, values: Any) -> None:
    """Writes plain values as YAML in the order given, atomically."""
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
