"""The keys of a recipe's ``data``, checked by their names before torch or any data set is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segdistill.errors import UserError, unknown_name
from segdistill.lazy import argument_names
from segdistill.naming import arguments_of, known_names

SPLITS = ("train", "val", "test")
"""Names of splits; where a recipe's data names each by itself, these are its keys."""

AUGMENTING = tuple(
    name for name in argument_names("segdistill.data.augmentation:Augmentation") if name != "ignore_index"
)
"""Keys of a recipe's data that are the augmentation's."""

FOR_A_TEACHER = ("unlabelled", "unlabelled_share")
"""Keys of a recipe's data that a student trained from labels alone has no use for."""

_OTHERS = ("decoded_cache", "statistics", *FOR_A_TEACHER)
"""Keys of a recipe's data that are neither the data set's nor the augmentation's."""


def check_keys(values: Mapping[str, Any]) -> None:
    """Refuse a key that neither the data set nor the augmentation has.

    Raises:
        UserError: an unknown data set or key, or no data set.
    """
    check_mapping(values)
    splits = [split for split in SPLITS if split in values]
    if splits and "dataset" not in values:
        reading = splits
        for split in splits:
            if isinstance(values[split], Mapping):
                _refuse_others(values[split], ["dataset", *_arguments(values[split])], f"data.{split}")
    else:
        reading = [name for name in _arguments(values) if name != "split"]
    _refuse_others(values, ["dataset", *AUGMENTING, *reading, *_OTHERS], "data")
    if isinstance(values.get("unlabelled"), Mapping):
        _refuse_others(values["unlabelled"], ["dataset", *arguments_of("dataset", "images")], "data.unlabelled")


def check_mapping(values: Any) -> None:
    """Refuse a recipe's ``data`` that is no mapping.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"data is {values!r}, expected a mapping such as {{dataset: camvid, root: data/camvid}}")


def check_apart(values: Any, output: Path) -> None:
    """Refuse an output folder among the images or masks of a data set `folder`, where a look at the data finds it.

    Args:
        values: a recipe's ``data``; objects are left alone.
        output: of a run or a comparison.

    Raises:
        UserError: it lies there.
    """
    sets = [values, *(values.get(split) for split in SPLITS)] if isinstance(values, Mapping) else []
    for one in sets:
        if not isinstance(one, Mapping) or one.get("dataset") != "folder" or "root" not in one:
            continue
        for folder in (Path(one["root"]) / "images", Path(one["root"]) / "masks"):
            if output.resolve().is_relative_to(folder.resolve()):
                raise UserError(
                    f"output folder {output} lies in {folder}, whose folders are splits of the data; choose an output "
                    "folder elsewhere"
                )


def dataset_name(values: Mapping[str, Any]) -> Any:
    """The data set that a recipe's ``data`` names.

    Raises:
        UserError: none.
    """
    check_mapping(values)
    if values.get("dataset") is None:
        known = ", ".join(known_names("dataset"))
        raise UserError(
            f"data: the key 'dataset' is missing; expected folder, for images and masks of your own, or one of {known}"
        )
    return values["dataset"]


def _arguments(values: Mapping[str, Any]) -> list[str]:
    return arguments_of("dataset", dataset_name(values))


def _refuse_others(values: Mapping[str, Any], known: list[str], where: str) -> None:
    for key in values:
        if key not in known:
            raise unknown_name(f"key in {where}:", key, known)
