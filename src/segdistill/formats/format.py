"""What a format is: how a file of it is made, written and opened."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from segdistill.formats.about import About
    from segdistill.formats.agreement import File
    from segdistill.formats.deployable import Deployable


class Format(ABC):
    """One kind of file that networks are exported to.

    A new format is one file with a class derived from this one, made without arguments, and one line in
    `segdistill.formats`, or an entry point of an installed package. Its module imports torch and its own library only
    where they are used, so that a process which runs a file is as small as a deployed one.

    Attributes:
        name: what the user calls it, the same as in the table or the entry point.
        suffix: how its files end, in small letters, such as ``.onnx``.
        needs: packages that make and run it.
        extra: the extra of segdistill that brings these.
        fixed: whether its files take images of one size alone, and a fixed number of them at once.
        folder: whether its files are folders.
        cannot_run: why no file of it can be run here, and so none be compared with PyTorch; empty where that can be.
        with_logits: whether `convert` wants a `Deployable` that returns the class scores too.
        takes_int8: whether NNCF can round what `convert` gives to 8 bits.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "deploy"
    fixed: ClassVar[bool] = False
    folder: ClassVar[bool] = False
    cannot_run: ClassVar[str] = ""
    with_logits: ClassVar[bool] = True
    takes_int8: ClassVar[bool] = False

    @abstractmethod
    def convert(
        self, deployable: Deployable, example: Tensor, dynamic: Mapping[int, str], metadata: Mapping[str, str]
    ) -> Any:
        """Convert a network to the format's own kind of model.

        Args:
            deployable: what to export. The file puts out what this does: labels or probabilities, in its layout.
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

    def check(self, path: Path, about: About) -> None:
        """Check a file as far as that is possible without running it; for formats that cannot be run here.

        Args:
            path: the file.
            about: what it should say of itself.

        Raises:
            ValueError: what is wrong with it.
        """
        self.open(path)
