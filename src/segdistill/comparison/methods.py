"""The methods of a comparison: their names, and the recipe that each of them is trained by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from segdistill.comparison.results import BASELINE, EQUAL_TIME
from segdistill.errors import UserError, unknown_name
from segdistill.methods import METHODS
from segdistill.recipe.methods import build_methods
from segdistill.recipe.recipes import DistillRecipe, TrainRecipe
from segdistill.recipe.values import plain


def is_alone(method: str) -> bool:
    """Whether a method of a comparison is the student alone."""
    return method in (BASELINE, EQUAL_TIME)


def parse_methods(methods: str | Sequence[str]) -> tuple[str, ...]:
    """The methods of a comparison, checked.

    Args:
        methods: names, or combinations of them joined by ``+``; a list, or a text with commas.

    Raises:
        UserError: for an unknown name, one that comes twice, no baseline, or nothing to hold against it.

    Example:
        >>> parse_methods("none, kd,kd+brd")
        ('none', 'kd', 'kd+brd')
    """
    names = [name.strip() for name in (methods.split(",") if isinstance(methods, str) else methods)]
    seen: dict[frozenset[str], str] = {}
    for name in names:
        parts = name.split("+")
        for part in parts:
            if not (part in METHODS or is_alone(name)):
                raise unknown_name("method", part, [BASELINE, EQUAL_TIME, *METHODS])
        if len(set(parts)) < len(parts):
            raise UserError(f"methods holds '{name}', which names a method twice")
        if frozenset(parts) in seen:
            raise UserError(f"methods holds '{seen[frozenset(parts)]}' and '{name}', which are the same")
        seen[frozenset(parts)] = name
    if BASELINE not in names:
        raise UserError(
            f"methods is {', '.join(names)}, which lacks '{BASELINE}', the same student trained alone; without it no "
            "gain can be told"
        )
    if all(is_alone(name) for name in names):
        raise UserError(f"methods is {', '.join(names)}, expected a distillation method to hold against '{BASELINE}'")
    return tuple(names)


def hyper_parameters(method: Any) -> dict[str, dict[str, Any]]:
    """Hyper-parameters by method, from what a recipe's ``method`` says."""
    return {one.name: plain(one.hyper_parameters(), "method") for one in build_methods(method)} if method else {}


def cell_recipe(recipe: DistillRecipe, method: str, seed: int) -> TrainRecipe | DistillRecipe:
    """The recipe of one cell of a comparison.

    Args:
        recipe: shared by all cells; its ``method`` holds hyper-parameters by name, a method that is not named has its
            defaults; its ``teacher_cache`` is the folder of the caches, one for each seed.
        method: of the cell, such as ``"kd+brd"``.
        seed: of the cell.
    """
    if is_alone(method):
        return replace(recipe.alone(), seed=seed)
    given = recipe.method if isinstance(recipe.method, Mapping) else {}
    methods = build_methods([{name: given.get(name, {})} for name in method.split("+")])
    cache = None if recipe.teacher_cache is None else Path(recipe.teacher_cache) / f"seed-{seed}"
    return replace(recipe, method=plain(methods, "method"), teacher_cache=cache, seed=seed)
