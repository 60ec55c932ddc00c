"""What an exported file says of itself: enough to run it without the run that it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from segdistill import __version__
from segdistill.datasets.base import Color
from segdistill.errors import UserError
from segdistill.formats.agreement import Form
from segdistill.formats.deployable import LAYOUTS, OUTPUTS

FORMAT = 1

_KEYS = ("format", "segdistill", "network", "classes", "palette", "mean", "std", "images", "outputs", "prediction")
"""Of the metadata; a file with a higher one is not read."""

DTYPES = ("uint8", "float32")


@dataclass(frozen=True)
class About:
    """What an exported file says of itself.

    Attributes:
        form: what goes in and what comes out.
        dtype: of the images, uint8 or float32.
        channels: of the images.
        classes: names.
        palette: a colour per class.
        network: spec of the network; None for one that was wrapped by hand.
        mean: per channel of images in 0..1, subtracted inside; None: nothing is.
        std: given with ``mean``.
        stride: see `Predictor`; so are the next two.
        window: in pixels.
        bands: numbers, the first being 1.
    """

    form: Form
    dtype: str
    channels: int
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    network: str | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    stride: int
    window: int
    bands: tuple[int, ...] | None

    def as_metadata(self) -> dict[str, str]:
        """What is written into the file; every value is JSON."""
        form = self.form
        facts = {
            "format": FORMAT,
            "segdistill": __version__,
            "network": self.network,
            "classes": self.classes,
            "palette": self.palette,
            "mean": self.mean,
            "std": self.std,
            "images": {
                "layout": form.layout,
                "dtype": self.dtype,
                "channels": self.channels,
                "size": form.size,
                "batch": form.batch,
            },
            "outputs": form.outputs,
            "prediction": {"stride": self.stride, "window": self.window, "bands": self.bands},
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
            raise UserError(f"model {file} says nothing of its classes; expected a file made by segdistill export")
        try:
            # Other programs may have added facts of their own, which need not be JSON.
            facts = {key: json.loads(metadata[key]) for key in _KEYS if key in metadata}
            format = facts.get("format", 0)
            if isinstance(format, int) and format > FORMAT:
                raise UserError(
                    f"model {file} has format {format} of segdistill {facts['segdistill']}, newer than {FORMAT}, which "
                    f"this one ({__version__}) reads; update segdistill, or export it again with this one"
                )
            return cls._from_facts(facts)
        except UserError:
            raise
        except (ValueError, TypeError, KeyError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"the metadata of model {file} is damaged or old ({what}); export it again") from None

    @classmethod
    def _from_facts(cls, facts: Mapping[str, Any]) -> About:
        images, prediction = facts["images"], facts["prediction"]
        form = Form(
            layout=_one_of(LAYOUTS, images["layout"]),
            outputs=_one_of(OUTPUTS, facts["outputs"]),
            size=None if images["size"] is None else cast(tuple[int, int], _whole(images["size"], 2)),
            batch=None if images["batch"] is None else _whole([images["batch"]], 1)[0],
        )
        classes = tuple(str(name) for name in facts["classes"])
        palette = tuple(cast(Color, tuple(int(value) for value in color)) for color in facts["palette"])
        if len(palette) != len(classes):
            raise ValueError(f"{len(palette)} colours for {len(classes)} classes")
        bands = prediction["bands"]
        return cls(
            form=form,
            dtype=_one_of(DTYPES, images["dtype"]),
            channels=_whole([images["channels"]], 1)[0],
            classes=classes,
            palette=palette,
            network=facts["network"],
            mean=None if facts["mean"] is None else tuple(map(float, facts["mean"])),
            std=None if facts["std"] is None else tuple(map(float, facts["std"])),
            stride=_whole([prediction["stride"]], 1)[0],
            window=_whole([prediction["window"]], 1)[0],
            bands=None if bands is None else _whole(bands, len(bands)),
        )


def _one_of(known: tuple[Any, ...], value: Any) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value


def _whole(values: Any, count: int) -> tuple[int, ...]:
    if not isinstance(values, list) or len(values) != count or any(type(v) is not int or v < 1 for v in values):
        raise ValueError(f"{values!r} is not {count} whole numbers of at least 1")
    return tuple(values)
