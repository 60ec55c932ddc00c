"""The arguments of `check_data`, `preview_data` and `data_statistics`, checked without torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from segdistill.errors import UserError
from segdistill.files import check_json_file
from segdistill.recipe.data_keys import check_keys


@dataclass(frozen=True)
class CheckOptions:
    """Which data to check, and what to say of it.

    Args:
        data: the data set and its keywords, e.g. {dataset: folder, root: my/data, classes: [road, roof, tree]}.
        output: JSON file for the report, with the names of all files.
        names: largest number of files to print for each finding.
        quiet: print nothing.
    """

    data: dict[str, Any]
    _: KW_ONLY
    output: str | Path | None = None
    names: int = 5
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.names < 1:
            raise UserError(f"names is {self.names}, expected at least 1")
        if self.output is not None:
            check_json_file(self.output, "output")
        check_keys(self.data)


@dataclass(frozen=True)
class PreviewOptions:
    """Which images to draw, and how.

    Args:
        data: the data set and its keywords, e.g. {dataset: folder, root: my/data, classes: [road, roof, tree]}.
        output: the PNG file.
        split: the split to show.
        count: number of images, spread evenly over the split.
        augmented: show the images as they are augmented in the first epoch of a training.
        seed: seed of the augmentation.
        quiet: print nothing.
    """

    data: dict[str, Any]
    _: KW_ONLY
    output: str | Path = "preview.png"
    split: str = "train"
    count: int = 12
    augmented: bool = False
    seed: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.count < 1:
            raise UserError(f"count is {self.count}, expected at least 1")
        file = Path(self.output)
        if file.suffix.lower() != ".png" or file.is_dir():
            raise UserError(f"output is {self.output}, expected the name of a file that ends in .png")
        check_keys(self.data)


@dataclass(frozen=True)
class StatisticsOptions:
    """Which data to measure.

    Args:
        data: the data set and its keywords, e.g. {dataset: folder, root: my/data, classes: [road, roof, tree]}.
        output: the JSON file; a recipe names it as data.statistics.
        quiet: print nothing.
    """

    data: dict[str, Any]
    _: KW_ONLY
    output: str | Path = "bands.json"
    quiet: bool = False

    def __post_init__(self) -> None:
        check_json_file(self.output, "output")
        check_keys(self.data)
