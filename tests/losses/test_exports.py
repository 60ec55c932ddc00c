from __future__ import annotations

import importlib
import inspect
import pkgutil

from segdistill import losses
from segdistill.recipe.losses import TASK_LOSSES
from tests.losses.pairs import CASES


def test_every_public_function_is_exported() -> None:
    """But for task losses, which recipes call by the names in a table."""
    found = {
        name
        for file in pkgutil.iter_modules(losses.__path__)
        if not file.name.startswith("_")
        for name, function in inspect.getmembers(
            importlib.import_module(f"segdistill.losses.{file.name}"),
            lambda one: inspect.isfunction(one) or inspect.isclass(one),
        )
        if not name.startswith("_") and function.__module__ == f"segdistill.losses.{file.name}"
    }
    by_name = {place.partition(":")[2] for place in TASK_LOSSES.places.values()}
    assert found - set(losses.__all__) - by_name == set(), "export it in src/segdistill/losses/__init__.py"
    assert set(losses.__all__) <= found
    assert losses.__all__ == sorted(losses.__all__)


def test_every_pairwise_loss_is_in_the_shared_suite() -> None:
    pairwise = {name for name in losses.__all__ if "teacher" in inspect.signature(getattr(losses, name)).parameters}
    tried = {case.name for case in CASES}
    assert pairwise - tried == set(), "add it to CASES in tests/losses/pairs.py"
    assert tried <= pairwise
