"""The methods of a comparison: their names, and the recipe that each of them is trained by."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.arguments import parse_options
from segdistill.comparison.options import ALONE, BASELINE, PSEUDO
from segdistill.comparison.pseudo import PseudoLabels
from segdistill.errors import UserError, unknown_name
from segdistill.methods import Method
from segdistill.methods.building import build_methods
from segdistill.naming import known_names, resolve, written
from segdistill.networks.identity import network_label
from segdistill.networks.wrapping import as_network
from segdistill.recipe.data import has_unlabelled
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe

#: How a recipe writes each method of a comparison, ``{name in recipes: {hyper-parameter: value}}``, by its name.
Specs = dict[str, dict[str, dict[str, Any]]]


def is_alone(method: str) -> bool:
    """Whether a method of a comparison is what the others are held against, and no distillation method."""
    return method in ALONE


def parse_methods(methods: str | Sequence[Any], given: Any = None) -> tuple[tuple[str, ...], Specs]:
    """The methods of a comparison, checked.

    Args:
        methods: names (see `resolve`), or combinations of them joined by ``+``, in a list or a text with commas; in a
            list also methods, or lists of them for combinations. A name may have hyper-parameters, ``kd?weight=3``.
        given: the recipe's ``method``, for hyper-parameters other than the defaults.

    Returns:
        The name of each method or combination, made of its classes' names, and how a recipe writes each class.

    Raises:
        UserError: an unknown name, one that comes twice, no baseline, or nothing to compare with it.

    Example:
        >>> parse_methods("none, kd,kd+brd")[0]
        ('none', 'kd', 'kd+brd')
    """
    specs: Specs = {}
    for one in [] if given is None else build_methods(given):
        _keep(specs, one.name, written("method", one))
    names: list[str] = []
    seen: dict[frozenset[str], str] = {}
    for entry in methods.split(",") if isinstance(methods, str) else methods:
        parts = _parts(entry, specs)
        name = "+".join(parts)
        if len({_own_name(part) for part in parts}) < len(parts):
            raise UserError(f"methods holds '{name}', which names a method twice")
        if frozenset(parts) in seen:
            raise UserError(f"methods holds '{seen[frozenset(parts)]}' and '{name}', which are the same")
        seen[frozenset(parts)] = name
        names.append(name)
    if BASELINE not in names:
        raise UserError(
            f"methods is {', '.join(names)}, which lacks '{BASELINE}', the same student trained alone; without it no "
            "gain can be told"
        )
    if all(map(is_alone, names)):
        raise UserError(f"methods is {', '.join(names)}, expected a distillation method to compare with '{BASELINE}'")
    return tuple(names), specs


def _parts(entry: Any, specs: Specs) -> list[str]:
    """The names of the methods in one entry; how they are written is added to ``specs``."""
    if isinstance(entry, Method):
        _keep(specs, entry.name, written("method", entry))
        return [entry.name]
    if isinstance(entry, list | tuple):
        return [name for one in entry for name in _parts(one, specs)]
    if not isinstance(entry, str):
        raise UserError(f"methods holds {entry!r}, expected names of methods")
    if is_alone(entry.strip()):
        return [entry.strip()]
    names = []
    for part in entry.strip().split("+"):
        asked, mark, options = part.partition("?")
        if is_alone(asked):
            raise UserError(
                f"methods holds '{entry}', but {asked} is no distillation method: it has no hyper-parameters, and "
                "cannot be joined with one"
            )
        if asked not in specs and ":" not in asked and asked not in known_names("method"):
            raise unknown_name("method", asked, sorted({*ALONE, *known_names("method"), *specs}))
        name = asked if asked in specs else resolve("method", asked).__name__.lower()
        if name not in specs:
            specs[name] = {asked: {}}
        names.append(f"{name}{mark}{options}")
    return names


def _own_name(part: str) -> str:
    """The name of a method without the hyper-parameters that follow it in a comparison."""
    return part.partition("?")[0]


def _spec(part: str, specs: Specs) -> dict[str, dict[str, Any]]:
    """How a recipe writes one method of a comparison, with the hyper-parameters that follow its name, if any.

    Example:
        >>> _spec("brd?relation=0", {"brd": {"brd": {"boundary": 2.0}}})
        {'brd': {'boundary': 2.0, 'relation': 0}}
    """
    name = _own_name(part)
    given = parse_options(part.partition("?")[2], f"method '{part}'")
    return {called: {**values, **given} for called, values in specs.get(name, {name: {}}).items()}


def _keep(specs: Specs, name: str, spec: dict[str, dict[str, Any]]) -> None:
    """Add a method, unless another class has the same name."""
    other = specs.get(name, spec)
    if list(other) != list(spec):
        raise UserError(
            f"{next(iter(other))} and {next(iter(spec))} are both called '{name}'; rename one of the classes"
        )
    specs[name] = spec


def cell_recipe(recipe: DistillRecipe, method: str, seed: int) -> TrainRecipe | DistillRecipe:
    """The recipe of one cell of a comparison.

    Args:
        recipe: shared by all cells; its ``method`` holds hyper-parameters, a method that is not in it has its defaults;
            its ``teacher_cache`` is the folder of the caches, one for each seed.
        method: of the cell, such as ``"kd+brd"``.
        seed: of the cell.
    """
    if not isinstance(recipe.student, str | Path):  # each cell trains a student of its own
        recipe = replace(recipe, student=copy.deepcopy(recipe.student))
    cache = None if recipe.teacher_cache is None else Path(recipe.teacher_cache) / f"seed-{seed}"
    if method == PSEUDO:
        if not has_unlabelled(recipe.data):
            raise UserError(f"{PSEUDO} trains on pseudo-labels of unlabelled images; name some as data.unlabelled")
        return replace(recipe, method=[written("method", PseudoLabels())], teacher_cache=cache, seed=seed)
    if is_alone(method):
        return replace(recipe.alone(), seed=seed)
    given = recipe.method if isinstance(recipe.method, Mapping | list) and recipe.method else None
    specs: Specs = {} if given is None else {one.name: written("method", one) for one in build_methods(given)}
    methods = build_methods([_spec(part, specs) for part in method.split("+")])
    return replace(recipe, method=[written("method", one) for one in methods], teacher_cache=cache, seed=seed)


def shared_recipe(recipe: DistillRecipe, data: Mapping[str, Any], specs: Specs) -> DistillRecipe:
    """The recipe that the cells of a comparison share, complete.

    Raises:
        UserError: the student is an object that could not be loaded again from the folder of a run.
    """
    objects: dict[str, Any] = {}
    if not isinstance(recipe.student, str | Path):
        objects["student"] = as_network(recipe.student, "student")
    if isinstance(recipe.teacher, list | tuple):
        objects["teacher"] = [_loadable(one) for one in recipe.teacher]
    elif not isinstance(recipe.teacher, Mapping):
        objects["teacher"] = _loadable(recipe.teacher)
    if "student" in objects and objects["student"].spec is None:
        raise UserError(
            f"the student is an {network_label(objects['student'])} wrapped by hand, which cannot be loaded again from "
            "the folder of a run to be scored; give a function that makes it, as python:module:function"
        )
    own = data if isinstance(recipe.data, Mapping) else recipe.data
    return replace(recipe, data=own, method=list(specs.values()), **objects)


def _loadable(teacher: Any) -> Any:
    """A teacher as a recipe names it, or as a `Network`."""
    return teacher if isinstance(teacher, str | Path) else as_network(teacher, "teacher")
