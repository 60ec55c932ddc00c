"""`segdistill.data_statistics`: mean, deviation and range of every band, once for all runs."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from segdistill.data.statistics import BandStatistics, band_statistics
from segdistill.inspection.findings import percent
from segdistill.inspection.options import StatisticsOptions
from segdistill.recipe.data import build_split
from segdistill.recipe.keywords import takes_fields


@takes_fields
def data_statistics(options: StatisticsOptions) -> BandStatistics:
    """Compute mean, deviation and range of every band of the training images, and save them as JSON for runs.

    Returns:
        What was saved, in the unit in which a network sees it: images of 8 bits in 0 to 1, others as they are.

    Raises:
        UserError: for data that cannot be read, which `segdistill data check` tells more about.
    """
    data, output = options.data, options.output
    console = Console(quiet=options.quiet)
    # Converted files would hold the same pixels.
    dataset = build_split({key: value for key, value in data.items() if key != "tiled_copy"}, "train")
    statistics = band_statistics(dataset, progress=not options.quiet)
    statistics.save(output)
    console.print(_table(statistics))
    ignored, missing = percent(statistics.ignored), percent(statistics.missing)
    counted = f"{len(dataset)} train images, {statistics.pixels} pixels counted"
    console.out(f"{counted}; {ignored} of all are ignored, {missing} hold no data", highlight=False)
    for text in statistics.doubts():
        console.out(f"warning: {text}", highlight=False)
    console.out(f"{output}  for a run: --data.statistics {output}", highlight=False)
    return statistics


def _table(statistics: BandStatistics) -> Table:
    table = Table()
    for name in ("band", "mean", "std", "min", "max"):
        table.add_column(name, justify="right")
    numbers = zip(statistics.mean, statistics.std, statistics.minimum, statistics.maximum, strict=True)
    for number, row in enumerate(numbers, start=1):
        table.add_row(str(number), *(f"{value:.5g}" for value in row))
    return table
