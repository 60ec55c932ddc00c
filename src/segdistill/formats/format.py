"""What a format is: how a file of it is made, written and opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from segdistill.formats.agreement import File
    from segdistill.formats.deployable import Deployable


class Format(ABC):
    """One kind of file that networks are exported to.

    A new format is one file with a class derived from this one, and one line in `formats.py`. Its module imports torch
    and its own library only where they are used, so that a process which runs a file is as small as a deployed one.

    Attributes:
        name: what the user calls it.
        suffix: how its files end.
        needs: packages of the extra ``deploy`` that make and run it.
        with_logits: whether `convert` wants a `Deployable` that returns the class scores too.
        takes_int8: whether a model of it can be rounded to 8 bits.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    with_logits: ClassVar[bool] = True
    takes_int8: ClassVar[bool] = True

    @abstractmethod
    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> Any:
        """Convert a network to the format's own kind of model.

        Args:
            deployable: what to export.
            example: images of the layout, the dtype and the fixed sizes to come.
            dynamic: names of the axes of the images that may have any length.
            metadata: goes into the file.
        """

    @abstractmethod
    def write(self, model: Any, path: Path) -> tuple[Path, ...]:
        """Write what `convert` gave to ``path``; returns all its files, the one that is opened last."""

    @abstractmethod
    def open(self, path: Path) -> File:
        """Open a file on the CPU, ready to run."""
