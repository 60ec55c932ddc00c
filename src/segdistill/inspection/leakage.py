"""Unlabelled images that are also images of a split on which networks are scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain

from rich.console import Console

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.checking import SampleContent, read_contents
from segdistill.errors import NoSplitError, UserError, reason
from segdistill.progress import counted
from segdistill.recipe.data import Data, build_split

Names = dict[bytes, str]
"""The name of each image by the hash of its pixels."""


def names_by_pixels(dataset: SegmentationDataset, contents: Iterable[SampleContent]) -> Names:
    """The images of a data set by their pixels; those of one colour, which are all alike, are left out."""
    return {content.pixels: image_name(dataset, index) for index, content in enumerate(contents) if not content.blank}


def image_name(dataset: SegmentationDataset, index: int) -> str:
    """The file of a sample, or its name where it has none."""
    return next(chain(map(str, dataset.files(index)), [f"sample {dataset.ids[index]}"]))


def check_leaks(data: Data, console: Console, progress: bool) -> None:
    """Refuse unlabelled images that are also images of val or test, after reading all of them.

    Args:
        data: the splits of the run, with unlabelled images.
        console: gets a warning where the test split cannot be read.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: an image that cannot be read; or see `refuse_leaks`.
    """
    assert data.unlabelled is not None
    unlabelled = data.unlabelled.at_size(data.val.resize)
    found, scored = (names_by_pixels(one, read_contents(one, progress)) for one in (unlabelled, data.val))
    refuse_leaks(data, found, {"val": scored}, console, progress)


def refuse_leaks(data: Data, unlabelled: Names, scored: Mapping[str, Names], console: Console, progress: bool) -> None:
    """Refuse unlabelled images of which a split that is scored holds an equal, pixel by pixel.

    Args:
        data: the splits of the run; its test split is read where it has one.
        unlabelled: the unlabelled images.
        scored: the images of the validation split, by its name.
        console: gets a warning where the test split cannot be read.
        progress: show a progress bar on the standard error stream.

    Raises:
        UserError: there are some; it names two of them.
    """
    for split, names in (dict(scored) | {"test": _test_images(data, console, progress)}).items():
        pairs = [f"{unlabelled[pixels]} = {names[pixels]}" for pixels in unlabelled if pixels in names]
        if pairs:
            raise UserError(
                f"{counted(len(pairs), 'unlabelled image')} {'is' if len(pairs) == 1 else 'are'} also in {split}, "
                f"pixel by pixel: {', '.join(pairs[:2])}{', ...' if pairs[2:] else ''}; take them out of the "
                "unlabelled images, since a network scores better on images that it has seen in training"
            )


def _test_images(data: Data, console: Console, progress: bool) -> Names:
    values = {key: value for key, value in data.values.items() if key != "tiled_copy"}
    try:
        test = build_split(values, "test")
        return names_by_pixels(test, read_contents(test, progress))
    except NoSplitError:
        return {}
    except Exception as error:  # a class of one's own may raise anything
        console.out(
            "warning: the test split cannot be read, so that unlabelled images may be among its images, and its scores "
            f"too good: {reason(error)}",
            highlight=False,
        )
        return {}
