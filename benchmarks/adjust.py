"""What `adjust` of the balanced loss gives: runs scored as if they had been trained with other values of it.

The loss sees the scores plus `adjust` times the logarithm of the class weights. A network that was trained with one
value becomes, but for chance, one of another value when the difference is taken from its classifier's bias.

    python benchmarks/adjust.py runs/teacher runs/alone
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from segdistill import RunFolder, UserError, load_run
from segdistill.evaluation.evaluate import measure
from segdistill.inspection.before_run import check_before_run
from segdistill.losses.task import BalancedCrossEntropy
from segdistill.recipe.data import build_data
from segdistill.recipe.losses import build_task_loss

ADJUST = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    table = Table(title="mIoU / pixel accuracy on the validation images", title_justify="left")
    for column in ("run", *(f"adjust {value}" for value in ADJUST)):
        table.add_column(column)
    for run in parser.parse_args().runs:
        table.add_row(str(run), *_row(run))
    Console().print(table)


def _row(run: Path) -> list[str]:
    recipe = RunFolder(run).read_config()
    data = build_data(recipe["data"])
    pixels = check_before_run(data, Console(quiet=True))["train"].counts.pixels
    loss, whole = (build_task_loss(one, pixels) for one in (recipe["train"]["loss"], {"balanced": {"adjust": 1.0}}))
    if not isinstance(loss, BalancedCrossEntropy) or not isinstance(whole, BalancedCrossEntropy):
        raise UserError(f"{run} was trained with loss {recipe['train']['loss']}, expected balanced")
    network = load_run(run)
    bias = _classifier(network, len(pixels)).bias
    assert bias is not None
    trained = bias.detach() + loss.shift
    cells = []
    for value in ADJUST:
        with torch.no_grad():
            bias.copy_(trained - value * whole.shift)
        scores = measure(network, data.val)
        cells.append(f"{scores.miou:.2f} / {scores.pixel_accuracy:.2f}")
    return cells


def _classifier(network: nn.Module, classes: int) -> nn.Conv2d:
    """The last convolution of as many channels as there are classes."""
    found = [one for one in network.modules() if isinstance(one, nn.Conv2d) and one.out_channels == classes]
    return found[-1]


if __name__ == "__main__":
    main()
