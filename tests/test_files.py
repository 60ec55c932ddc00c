from __future__ import annotations

import errno
import inspect
import os
import re
import stat
from pathlib import Path
from typing import IO, Any

import pytest

import segdistill
from segdistill import UserError
from segdistill.datasets import DATASETS
from segdistill.files import read_yaml, write_atomically, write_json, write_text, write_yaml


def test_writes_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "new" / "deep" / "a.txt"
    write_text(file, "ä first")
    write_text(file, "second")
    assert file.read_text(encoding="utf-8") == "second"
    assert [path.name for path in file.parent.iterdir()] == ["a.txt"]


def test_others_may_read_it_as_the_user_wishes(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write(file: IO[bytes]) -> None:
        file.write(b"half of it")
        if failing == "write":
            full()

    if failing != "write":
        monkeypatch.setattr(os, failing, full)
    with pytest.raises(UserError, match=r"^cannot write \S+a.txt: No space left on device$"):
        write_atomically(tmp_path / "a.txt", write)
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_other_errors_are_not_disguised(tmp_path: Path) -> None:
    def write(file: IO[bytes]) -> None:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        write_atomically(tmp_path / "a.txt", write)
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^cannot write \S+file/a.txt: one of its folders is a file$"):
        write_text(tmp_path / "file" / "a.txt", "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"^cannot write \S+folder: Is a directory$"):
        write_text(tmp_path / "folder", "x")


def test_yaml_keeps_order_and_letters(tmp_path: Path) -> None:
    write_yaml(tmp_path / "a.yaml", {"z": 1, "a": ["ö", 0.001]})
    assert (tmp_path / "a.yaml").read_text(encoding="utf-8").startswith("z: 1\na:\n- ö\n")
    assert read_yaml(tmp_path / "a.yaml") == {"z": 1, "a": ["ö", 0.001]}


def test_json_ends_its_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": None})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": null\n}\n'


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"^cannot read \S+a.yaml: No such file or directory$"),
        (b"a: [1", r"^cannot read \S+a.yaml: .*line 1.*$"),
        (b"\xff\xfe\x81", r"^cannot read \S+a.yaml: .*decode"),
        (b"", r"^\S+a.yaml holds nothing, expected a mapping"),
        (b"- a", r"^\S+a.yaml holds a list, expected a mapping"),
        (b"hello", r"^\S+a.yaml holds a str, expected a mapping"),
        (b"!!python/object/apply:os.system [ls]", r"^cannot read \S+a.yaml: could not determine a constructor"),
    ],
)
def test_bad_yaml(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(UserError, match=told) as error:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def takes_root(name: str) -> bool:
    return "root" in inspect.signature(DATASETS[name]).parameters


@pytest.mark.parametrize("given", [None, 5, ["a"], b"data"])
def test_what_is_no_path_is_refused_wherever_python_takes_one(given: Any) -> None:
    for read in (segdistill.load_run, segdistill.load_comparison, segdistill.RunFolder):
        with pytest.raises(UserError, match=re.escape(f"is {given!r}, expected a path, as a str or")):
            read(given)
    with pytest.raises(UserError, match="expected"):
        segdistill.evaluate(given, quiet=True)


@pytest.mark.parametrize("name", [name for name in DATASETS if takes_root(name)])
@pytest.mark.parametrize("given", [None, 5, b"data"])
def test_data_sets_refuse_what_is_no_path(name: str, given: Any) -> None:
    with pytest.raises(UserError, match=re.escape(f"root is {given!r}, expected a path, as a str or")):
        DATASETS[name](root=given, **({"classes": ["no", "yes"]} if name == "folder" else {}))
