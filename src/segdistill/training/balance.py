"""Weights of distillation terms from what each does to the student, measured over the first steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from segdistill.errors import UserError, unknown_name
from segdistill.networks.features import Features

#: Optimiser steps over which gradients are measured before the weights are fixed.
MEASURED_STEPS = 20

#: What each term's gradient is to be of the task loss's, in norm.
SHARE = 0.3


class Balance:
    """Scales each distillation term so that its gradient has a set share of the task loss's.

    Gradients are taken at the embedding; for a term that does not reach it (BRD's boundaries), at the coarsest stage,
    where the task loss's is taken for it too. Over the first steps their norms are summed, and every term weighs what
    its method says; then the factors ``SHARE * |task| / |term|`` are fixed for the rest of the run.

    Args:
        factors: fixed from the start, by term, each 0 or more; None to measure them.

    Attributes:
        measures: whether the factors are, or were, measured.
        factors: by term, once they are known.

    Raises:
        UserError: for a factor that is no number, below 0, infinite or NaN.
    """

    def __init__(self, factors: Mapping[str, float] | None = None) -> None:
        for name, factor in (factors or {}).items():
            if not isinstance(factor, int | float) or not 0 <= factor < math.inf:
                raise UserError(f"loss_weights: {name} is {factor!r}, expected a number, 0 or more")
        self.measures = factors is None
        self.factors = None if factors is None else dict(factors)
        self._norms: dict[str, Tensor] = {}
        self._steps = 0

    @property
    def measuring(self) -> bool:
        """Whether the factors are still to be found."""
        return self.factors is None

    def __call__(self, terms: Mapping[str, Tensor], features: Features | None) -> dict[str, Tensor]:
        """The terms, weighted; measured first where that is still to be done.

        Raises:
            UserError: if there is a factor for a term that does not exist.
        """
        if self.measuring and features is not None and "task" in terms and torch.is_grad_enabled():
            self._measure(terms, features)
        factors = self.factors or {}
        unknown = next((name for name in factors if name not in terms), None)
        if unknown is not None:
            raise unknown_name("loss term in loss_weights:", unknown, terms)
        return {name: term * factors[name] if name in factors else term for name, term in terms.items()}

    def _measure(self, terms: Mapping[str, Tensor], features: Features) -> None:
        # A frozen backbone has no gradients to measure.
        places = [place for place in (features.embedding, features.stages[-1]) if place.requires_grad]
        if not places:
            return
        at_places = {
            name: torch.autograd.grad(term, places, retain_graph=True, allow_unused=True)
            for name, term in terms.items()
            if term.requires_grad
        }
        for name, slopes in at_places.items():
            place = next((index for index, slope in enumerate(slopes) if slope is not None), None)
            task = None if place is None or "task" not in at_places else at_places["task"][place]
            if name in ("task", "aux") or place is None or task is None:
                continue
            slope = slopes[place]
            assert slope is not None
            both = torch.stack([slope.float().norm(), task.float().norm()])
            self._norms[name] = self._norms[name] + both if name in self._norms else both

    def close_step(self, mean_over_processes: Any) -> bool:
        """Called after each optimiser step; whether the factors were fixed just now.

        Args:
            mean_over_processes: brings a tensor to its mean over all processes.
        """
        if self.factors is not None:
            return False
        self._steps += 1
        if self._steps < MEASURED_STEPS:
            return False
        self.factors = {}
        for name in sorted(self._norms):
            own, task = mean_over_processes(self._norms[name]).tolist()
            # A term without a gradient, or a task without one (no label in all these steps), gives no measure.
            if 0 < own < math.inf and 0 < task < math.inf:
                self.factors[name] = float(f"{SHARE * task / own:.4g}")
        return True

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"factors": self.factors, "norms": self._norms, "steps": self._steps}

    def load(self, state: Mapping[str, Any], device: torch.device) -> None:
        """What `state` gave."""
        self.factors = state["factors"]
        self._norms = {name: value.to(device) for name, value in state["norms"].items()}
        self._steps = state["steps"]
