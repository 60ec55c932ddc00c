"""Label files whose numbers are the codes of a published data set, as index images or MATLAB files."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import io
from torch import Tensor

from segdistill.datasets.base import IGNORE_INDEX
from segdistill.datasets.reading.images import image_size
from segdistill.datasets.reading.masks import MaskFile, MaskReader, resized_labels
from segdistill.errors import UserError, reason

MATLAB_SUFFIX = ".mat"

_CODES = 2**16
_UNKNOWN = -1
# What scipy raises on damaged files, besides its own MatReadError; NotImplementedError is a file of MATLAB 7.3.
_BROKEN = (OSError, ValueError, TypeError, LookupError, EOFError, NotImplementedError, struct.error, zlib.error)


class CodedMaskReader(MaskReader):
    """Reads label maps whose numbers are not the class numbers, through a table of codes.

    Index images (PIL modes L, P, I, I;16) hold the codes themselves. A MATLAB file (.mat, of version 5 to 7.2, read
    by scipy) holds them in a variable.

    Args:
        codes: the label of each code: 0..K-1, or 255 for ignored pixels; codes are 0..65535.
        meaning: the codes in words, for the sentence on a value that is none of them.
        variable: the variable of MATLAB files, and the field of it where it is a struct: ``("S",)``.
    """

    def __init__(self, codes: Mapping[int, int], *, meaning: str, variable: Sequence[str] = ()) -> None:
        super().__init__(1 + max(label for label in codes.values() if label != IGNORE_INDEX))
        self.meaning = meaning
        self.variable = tuple(variable)
        self._table = np.full(_CODES + 1, _UNKNOWN, dtype=np.int16)  # the last entry stands for all other numbers
        self._table[list(codes)] = list(codes.values())

    def read(self, path: Path, size: tuple[int, int] | None = None) -> Tensor:
        """The label map, int64 (H, W), resized to ``size`` (height, width) if given: nearest neighbours.

        Raises:
            UserError: missing or broken file, no index mask, a value that is no code.
        """
        values = self._values(path)
        narrow = values.dtype in (np.uint8, np.uint16)
        labels = self._table[values if narrow else np.where((values < 0) | (values >= _CODES), _CODES, values)]
        if labels.min() == _UNKNOWN:
            found = np.unique(values[labels == _UNKNOWN]).tolist()
            shown = ", ".join(str(value) for value in found[:8]) + (", ..." if len(found) > 8 else "")
            raise UserError(f"{path} holds the label value{'s' * (len(found) > 1)} {shown}; expected {self.meaning}")
        return resized_labels(torch.from_numpy(labels.astype(np.int64)), size)

    def size(self, path: Path) -> tuple[int, int]:
        """(height, width) of a label file: an image's header is read, a MATLAB file as a whole."""
        if path.suffix != MATLAB_SUFFIX:
            return image_size(path)
        height, width = read_matlab(path, self.variable).shape
        return height, width

    def _values(self, path: Path) -> np.ndarray:
        if path.suffix == MATLAB_SUFFIX:
            return read_matlab(path, self.variable)
        values = MaskFile(path).read().values
        if values.ndim != 2:
            raise UserError(f"{path} is an RGB picture; expected an index mask: {self.meaning}")
        return values


def read_matlab(path: Path, variable: Sequence[str]) -> np.ndarray:
    """A matrix of whole numbers in a MATLAB file.

    Args:
        path: a .mat file of version 5 to 7.2.
        variable: the variable's name, and that of its field where it is a struct.

    Returns:
        (H, W), of the file's number type: MATLAB writes labels as uint8, uint16 or double.

    Raises:
        UserError: missing or broken file, no such variable, no matrix of numbers.
    """
    name = ".".join(variable)
    try:
        with path.open("rb") as file:
            content: Any = io.loadmat(file, variable_names=[variable[0]])
    except FileNotFoundError:
        raise UserError(f"{path} does not exist (any more)") from None
    except (*_BROKEN, io.matlab.MatReadError) as error:
        raise UserError(f"{path} cannot be read, it is truncated or no MATLAB file: {reason(error)}") from None
    try:
        content = content[variable[0]]
        for field in variable[1:]:
            content = content[0, 0][field]
    except (LookupError, ValueError, TypeError):
        raise UserError(f"{path} has no variable '{name}'; expected the label map there") from None
    matrix = np.asarray(content)
    if matrix.ndim != 2 or matrix.size == 0 or matrix.dtype.kind not in "uif":
        raise UserError(
            f"{path} holds an array of shape {matrix.shape} and type {matrix.dtype} in '{name}'; "
            "expected a matrix of label numbers"
        )
    with np.errstate(invalid="ignore"):  # NaN becomes some number, and differs from it
        whole = matrix.astype(np.int64) if matrix.dtype.kind == "f" else matrix
    if not np.array_equal(whole, matrix):
        raise UserError(f"{path} holds fractions in '{name}'; expected a matrix of label numbers")
    return whole
