"""Types of what recipes hold and make: as Python sees them, and as the command line and YAML have them, without torch.

They lie here because jsonargparse looks for types under ``TYPE_CHECKING`` in the module of a dataclass, and would
import torch for a help text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from segdistill.distiller import TaskLoss

    LossSpec = str | Mapping[str, Any] | TaskLoss
    NamedParameters = Iterable[tuple[str, nn.Parameter]]
else:
    LossSpec = str | dict[str, Any]
    NamedParameters = Optimizer = TaskLoss = Tensor = Any

__all__ = ["LossSpec", "NamedParameters", "Optimizer", "TaskLoss", "Tensor"]
