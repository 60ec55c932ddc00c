"""mIoU of runs of several seeds against runs of a baseline, on the validation images, with intervals.

For runs that were made one by one; `segdistill compare` does the same for its own, with a report.

    python benchmarks/difference.py runs/auto-0 runs/auto-1 --baseline runs/alone-0 runs/alone-1 --teacher runs/teacher
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from segdistill import RunFolder, load_run
from segdistill.comparison.statistics import Overlaps, compare_miou, gap_closure
from segdistill.evaluation.evaluate import Evaluation, measure
from segdistill.recipe.data import build_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--baseline", type=Path, nargs="+", required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    given = parser.parse_args()
    table = Table(title="on the validation images, in %", title_justify="left")
    for column in ("", "mIoU", "pixel accuracy", "boundary IoU", "connectivity error"):
        table.add_column(column)
    own, baseline, teacher = (
        [_measured(run, table) for run in runs] for runs in (given.runs, given.baseline, [given.teacher])
    )
    console = Console()
    console.print(table)
    found = compare_miou(own, baseline)
    console.print(f"difference {found.difference:+.2f}, 95 % from {found.low:+.2f} to {found.high:+.2f}")
    closed = gap_closure(own, baseline, teacher[0])
    if closed.closed is not None:
        console.print(f"gap closed {closed.closed:.0f} %, 95 % from {closed.low:.0f} to {closed.high:.0f}")


def _measured(run: Path, table: Table) -> Overlaps:
    found: Evaluation = measure(load_run(run), build_split(RunFolder(run).read_config()["data"], "val"), quiet=True)
    scores = [found.miou, found.pixel_accuracy, found.boundary.mean_boundary_iou, found.connectivity.error]
    table.add_row(str(run), *("" if score is None else f"{score:.2f}" for score in scores))
    return Overlaps.from_confusion(found.confusion)


if __name__ == "__main__":
    main()
