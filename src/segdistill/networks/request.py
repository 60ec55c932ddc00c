"""What a source is asked for: a parsed network spec and what goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segdistill.errors import UserError, reason
from segdistill.networks.fetching import impatient

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Request:
    """One network that is wanted.

    Attributes:
        spec: the whole spec, e.g. ``"smp:FPN:resnet18?decoder_dropout=0"``.
        name: what stands between source and options, e.g. ``"FPN:resnet18"``.
        options: the query, values read as YAML.
        num_classes: None: as many as the weights have, where they say.
        in_channels: channels of the images.
        imagenet: start from the library's ImageNet weights for the encoder.
        encoder: start from this file's weights for the encoder.
    """

    spec: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    num_classes: int | None = None
    in_channels: int = 3
    imagenet: bool = False
    encoder: Path | None = None

    def classes(self) -> int:
        """The number of classes.

        Raises:
            UserError: it was not given.
        """
        if self.num_classes is None:
            raise UserError(f"num_classes is missing: network '{self.spec}' can be built for any number of classes")
        return self.num_classes

    def default_normalization(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        """ImageNet's mean and std for three channels, none for others."""
        return (IMAGENET_MEAN, IMAGENET_STD) if self.in_channels == 3 else (None, None)

    @contextmanager
    def building(self, *, fetching: bool = False) -> Iterator[None]:
        """Turn whatever another library raises inside into one sentence about this spec.

        Args:
            fetching: ImageNet weights are fetched inside, which is what fails then as a rule.

        Raises:
            UserError: instead of any other exception.
        """
        try:
            with impatient() if fetching else nullcontext():
                yield
        except UserError:
            raise
        # Every library and every option fails in its own way, from KeyError to errors of the HTTP client.
        except Exception as error:
            if fetching:
                raise UserError(
                    f"cannot get ImageNet weights for '{self.spec}' ({reason(error)}): they are downloaded "
                    "once; without internet, init_weights {encoder: FILE} takes them from a file, and null starts from "
                    "random ones"
                ) from error
            raise UserError(f"cannot build network '{self.spec}': {reason(error)}") from error
