"""The metadata of an exported file: enough to run it without the run that it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from segdistill.errors import UserError
from segdistill.formats.agreement import Form
from segdistill.formats.deployable import LAYOUTS, OUTPUTS
from segdistill.networks.description import Description
from segdistill.version import __version__

FORMAT = 1
"""Of the metadata; a file with a higher one is not read."""

DTYPES = ("uint8", "float32")


@dataclass(frozen=True)
class About:
    """The metadata of an exported file.

    Attributes:
        form: what goes in and what comes out.
        dtype: of the images that go in, uint8 or float32.
        description: what network.json says of the network.
    """

    form: Form
    dtype: str
    description: Description

    def as_metadata(self) -> dict[str, str]:
        """What is written into the file: the `Description`'s entries, images and outputs; every value is JSON."""
        form = self.form
        facts = {
            "format": FORMAT,
            "segdistill": __version__,
            "images": {"layout": form.layout, "dtype": self.dtype, "size": form.size, "batch": form.batch},
            "outputs": form.outputs,
            **self.description.as_dict(),
        }
        return {key: json.dumps(value) for key, value in facts.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], file: str) -> About:
        """Reads `as_metadata` back.

        Args:
            metadata: of the file.
            file: its name, for messages.

        Raises:
            UserError: not made by `segdistill export`, or by a newer version, or damaged.
        """
        if "segdistill" not in metadata:
            raise UserError(f"model {file} does not name its classes; expected a file made by segdistill export")
        # Other programs may have added facts of their own, which need not be JSON.
        facts = {key: _json(value) for key, value in metadata.items()}
        format = facts.get("format", 0)
        if isinstance(format, int) and format > FORMAT:
            raise UserError(
                f"model {file} has format {format} of segdistill {facts['segdistill']}, newer than {FORMAT}, which "
                f"this one ({__version__}) reads; update segdistill, or export it again with this one"
            )
        where = f"the metadata of model {file}"
        try:
            images = facts["images"]
            form = Form(
                layout=_one_of(LAYOUTS, images["layout"]),
                outputs=_one_of(OUTPUTS, facts["outputs"]),
                size=None if images["size"] is None else cast(tuple[int, int], _whole(images["size"], 2)),
                batch=None if images["batch"] is None else _whole([images["batch"]], 1)[0],
            )
            dtype = _one_of(DTYPES, images["dtype"])
        except (ValueError, TypeError, KeyError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where} is damaged or old ({what}); export it again") from None
        return cls(form, dtype, Description.from_dict(facts, where))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _one_of(known: tuple[Any, ...], value: Any) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value


def _whole(values: Any, count: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != count or any(type(v) is not int or v < 1 for v in values):
        raise ValueError(f"{values!r} is not {count} whole numbers of at least 1")
    return tuple(values)
