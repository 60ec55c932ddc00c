"""Teacher outputs in the form in which a cache stores them: half precision, one record per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor

from segdistill.distiller import Distiller
from segdistill.errors import UserError
from segdistill.methods.pairing import blank_features

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

#: What rounding may take of a record's largest value: as much as bfloat16 takes of any.
_COARSEST = 2.0**-9


@dataclass(frozen=True)
class Form:
    """Shape and dtype of one record of a teacher output.

    Attributes:
        shape: of the output of one image.
        dtype: "float16" or "bfloat16".
    """

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in _DTYPES or any(not isinstance(side, int) or side < 1 for side in self.shape):
            raise ValueError(f"no teacher output has the shape {self.shape} and dtype {self.dtype}")

    @staticmethod
    def of(values: Mapping[str, Any]) -> Form:
        """From a manifest's entry."""
        return Form(tuple(values["shape"]), values["dtype"])

    @property
    def bytes(self) -> int:
        """Bytes of one record."""
        return int(2 * np.prod(self.shape, dtype=np.int64))

    def tensor(self, record: np.ndarray[Any, Any]) -> Tensor:
        """The output in a record's bytes, copied."""
        return torch.from_numpy(np.array(record)).view(_DTYPES[self.dtype]).view(self.shape)


def teacher_output_names(distiller: Distiller) -> list[str]:
    """Names of all teacher outputs that the methods take, from shapes alone: no teacher is run."""
    features = blank_features(distiller.source.info)
    names: dict[str, None] = {}
    with torch.no_grad():
        for method in distiller.methods.values():
            names |= dict.fromkeys(method.teacher_outputs(features))  # type: ignore[operator]
    return list(names)


def outputs_in_half(distiller: Distiller, images: Tensor, names: Sequence[str], fabric: Fabric) -> dict[str, Tensor]:
    """Teacher outputs as a cache stores them, on the CPU.

    Args:
        distiller: with its teacher loaded.
        images: (B, C, H, W).
        names: which outputs.
        fabric: device and precision.

    Raises:
        UserError: if half precision cannot hold one of them.
    """
    shown = images.to(fabric.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
    with fabric.autocast():
        outputs = distiller.teacher_outputs(shown)
    return {name: _half(name, outputs[name]) for name in names}


def form_of(records: Tensor) -> Form:
    """The form of one of the records (B, ...) of a teacher output."""
    return Form(tuple(records.shape[1:]), str(records.dtype).removeprefix("torch."))


def _half(name: str, value: Tensor) -> Tensor:
    """The records of a batch as they are stored, on the CPU."""
    kept = value if value.dtype == torch.bfloat16 else value.to(torch.float16)
    largest = value.abs().flatten(1).amax(1)
    lost = (value - kept).abs().flatten(1).amax(1)
    if not bool((lost <= _COARSEST * largest).all()):  # nor where one of them is NaN
        raise UserError(
            f"the teacher's {name} reaches {float(largest.max()):.3g}, and half precision holds what lies between "
            "6e-05 and 65504; distil without a teacher cache, or with precision bf16"
        )
    return kept.contiguous().cpu()
