"""The loss terms of an epoch: their means, and which of them first became NaN."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor


class EpochTerms:
    """Sums of loss terms over the batches of an epoch so far; they stay on the device until somebody looks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._bad: Tensor | None = None
        self._count = 0

    def add(self, parts: Sequence[Mapping[str, Tensor]]) -> None:
        """Adds the terms of every batch of one step."""
        for terms in parts:
            for name, value in terms.items():
                self._sums[name] = self._sums[name] + value if name in self._sums else value
            # Which terms were bad in the first bad step; later ones are bad everywhere, the weights being NaN by then.
            bad = ~torch.isfinite(torch.stack(list(terms.values())))
            self._bad = bad if self._bad is None else torch.where(self._bad.any(), self._bad, bad)
            self._count += 1

    def means(self, fabric: Fabric) -> dict[str, float]:
        """Mean of each term over batches and processes. Every process must call this."""
        sums = cast(dict[str, Tensor], fabric.all_reduce(self._sums, reduce_op="mean"))
        return {name: float(total) / self._count for name, total in sums.items()}

    def not_finite(self) -> list[str]:
        """The terms that were NaN or infinite in the first step that had one; a GPU is waited for."""
        if self._bad is None or not bool(self._bad.any()):
            return []
        return [name for name, bad in zip(self._sums, self._bad.tolist(), strict=True) if bad]

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"sums": self._sums, "bad": self._bad, "count": self._count}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Continues from what `state_dict` gave."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._bad = None if state["bad"] is None else state["bad"].to(device)
        self._count = state["count"]
