from __future__ import annotations

import importlib
import inspect
import pkgutil

from segdistill import losses
from tests.losses.pairs import CASES


def test_every_public_function_is_exported() -> None:
    found = {
        name
        for file in pkgutil.iter_modules(losses.__path__)
        if not file.name.startswith("_")
        for name, function in inspect.getmembers(
            importlib.import_module(f"segdistill.losses.{file.name}"), inspect.isfunction
        )
        if not name.startswith("_") and function.__module__ == f"segdistill.losses.{file.name}"
    }
    assert sorted(found) == losses.__all__


def test_every_pairwise_loss_is_in_the_shared_suite() -> None:
    pairwise = {name for name in losses.__all__ if "teacher" in inspect.signature(getattr(losses, name)).parameters}
    assert pairwise == {case.name for case in CASES}
