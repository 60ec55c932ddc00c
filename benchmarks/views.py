"""What a fixed number of cached views costs in accuracy: students by views 1, 4, 16, as many as epochs, and live.

Trains the same student once for each number of views and seed, from a teacher cache, and once against the live teacher,
which sees a new view in every epoch; then prints validation mIoU, seconds of training and the size of the cache. Runs
that are finished are kept, so that it may be stopped and started again.

    python benchmarks/views.py recipe.yaml --output runs/views --seeds 3
    python benchmarks/views.py recipe.yaml --output runs/views --views 1 4 16 --epochs 60

The recipe is one of `segdistill distill`; its own ``views``, ``teacher_cache`` and ``seed`` are replaced.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import segdistill
from segdistill.files import read_yaml
from segdistill.recipe.recipes import DistillRecipe
from segdistill.records import readable
from segdistill.training.options import RunOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    recipe = DistillRecipe.from_dict(read_yaml(options.recipe))
    if options.epochs is not None:
        recipe = replace(recipe, train=replace(recipe.train, epochs=options.epochs, steps=None))
    numbers: list[int | None] = [*options.views, recipe.train.epochs, None]
    found: dict[int | None, list[dict[str, Any]]] = {views: [] for views in numbers}
    for seed in range(options.seeds):
        for views in found:
            found[views].append(_one(recipe, views, seed, options.output, options.device))
    _show(found, recipe, options.output)


def _one(recipe: DistillRecipe, views: int | None, seed: int, output: Path, device: str) -> dict[str, Any]:
    """The scores of one run, which is trained unless it is there already."""
    name = _name(views)
    cache = None if views is None else output / "caches" / f"{name}-seed{seed}"
    own = replace(recipe, views=views, teacher_cache=cache, seed=seed)
    folder = output / f"{name}-seed{seed}"
    run = segdistill.distill(own, RunOptions(output=folder, device=device, resume=True))
    metrics = run.read_metrics()
    assert metrics is not None
    return metrics


def _name(views: int | None) -> str:
    return "live" if views is None else f"views{views}"


def _show(found: dict[int | None, list[dict[str, Any]]], recipe: DistillRecipe, output: Path) -> None:
    table = Table(title=f"{recipe.method}, {recipe.train.epochs} epochs, validation mIoU in %", title_justify="left")
    for column in ("views", "each shown", "mean", "over seeds", "against live", "seconds", "cache"):
        table.add_column(column, justify="left" if column == "views" else "right")
    live = [run["miou"] for run in found[None]]
    for views, runs in found.items():
        scores = [run["miou"] for run in runs]
        shown = 1.0 if views is None else max(1.0, recipe.train.epochs / views)
        folder = output / "caches" / f"{_name(views)}-seed0"
        size = sum(file.stat().st_size for file in folder.glob("*.bin")) if folder.exists() else 0
        difference = statistics.mean(mine - other for mine, other in zip(scores, live, strict=True))
        table.add_row(
            "live teacher" if views is None else str(views),
            f"{shown:.1f} x",
            f"{statistics.mean(scores):.2f}",
            "  ".join(f"{score:.2f}" for score in scores),
            f"{difference:+.2f}",
            f"{statistics.mean(run['training_seconds'] for run in runs):.0f}",
            readable(size) if size else "",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
