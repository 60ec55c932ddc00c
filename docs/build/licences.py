"""The page of what segdistill depends on, from pyproject.toml, constraints.txt and the installed packages."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]

#: Packages of the extra that has an environment of its own: docs/reference/installation.md says why.
_NOT_INSTALLED = {"ai-edge-litert": "Apache Software License", "litert-torch": "Apache Software License"}

#: Longer texts in the field License are whole licences; then the classifier names it.
_LONGEST_NAME = 40


def licences() -> str:
    """Return the page of all direct dependencies, each with its tested version and its licence."""
    text = """# Licences of dependencies

segdistill has the licence Apache-2.0. It contains none of these packages: pip installs them. Versions are those of
`constraints.txt`; licences are what each package says of itself. Packages that these need in turn are not listed.

connected-components-3d has the licence LGPL-3.0-or-later. It is optional, in the extra `components`: without it scipy
does its work, more slowly.

Files that pip installs may contain other libraries with licences of their own: those of av (extra `video`) contain x264
and x265, which are GPL-2.0-or-later; those of shapely and rasterio (extra `geo`) contain GEOS, which is LGPL-2.1.
Read them before you pass on an image or a program that contains them.

| package | needed for | version | licence |
|---|---|---|---|
"""
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    versions = {_normal(name): version for name, version in pinned.items()}
    rows = [
        f"| {name} | {group} | {versions[_normal(name)]} | {_licence(name)} |\n"
        for name, group in _direct_dependencies()
    ]
    return text + "".join(rows)


def _direct_dependencies() -> Iterator[tuple[str, str]]:
    """Yield each package and what it is needed for: everything, or an extra by its name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = {"everything": project["dependencies"], **project["optional-dependencies"]}
    for group, requirements in groups.items():
        for requirement in requirements:
            name = re.split(r"[^\w.-]", requirement)[0]
            if name != project["name"]:
                yield name, group if group == "everything" else f"extra `{group}`"


def _normal(name: str) -> str:
    """Return a package's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _licence(package: str) -> str:
    """Return what an installed package says of its licence.

    Raises:
        PackageNotFoundError: if it is not installed; the extra ``dev`` brings all but those of ``tflite``.
        LookupError: if it says nothing.
    """
    if package in _NOT_INSTALLED:
        return _NOT_INSTALLED[package]
    about = metadata(package)
    given = about.get("License-Expression") or about.get("License") or ""
    if given and "\n" not in given and (len(given) <= _LONGEST_NAME or "License-Expression" in about):
        return given
    named = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    if not named:
        raise LookupError(f"package {package} names no licence in its metadata")
    return " and ".join(named)
