"""The task loss of a recipe: ``train.loss``, from a name and its arguments to a function of scores and labels."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from segdistill.arguments import checked_arguments
from segdistill.errors import UserError
from segdistill.lazy import LazyTable
from segdistill.naming import check_arguments, resolve

#: Task losses by the names that recipes use. A loss takes ``logits``, ``labels`` and ``ignore_index`` by keyword and
#: returns a scalar; a class makes such a function from its arguments, ``pixels_per_class`` among them if it has it.
TASK_LOSSES: LazyTable[Any] = LazyTable(
    {
        "ce": "segdistill.losses.task:cross_entropy",
        "balanced": "segdistill.losses.task:BalancedCrossEntropy",
        "ohem": "segdistill.losses.task:ohem_cross_entropy",
        "focal": "segdistill.losses.task:focal_cross_entropy",
        "dice": "segdistill.losses.overlap:Dice",
        "jaccard": "segdistill.losses.overlap:Jaccard",
        "tversky": "segdistill.losses.overlap:Tversky",
        "lovasz": "segdistill.losses.overlap:Lovasz",
    }
)

#: What every task loss is called with, by keyword.
CALLED_WITH = ("logits", "labels", "ignore_index")

#: The argument by which a task loss gets the training pixels of each class, a tensor (K,), where it has it.
COUNTS = "pixels_per_class"


def check_task_loss(spec: Any) -> None:
    """Check that `build_task_loss` can make a loss.

    Raises:
        UserError: an unknown name, an unknown or wrong-typed argument, or something that is no loss.
    """
    named = spec.items() if isinstance(spec, Mapping) else [(spec, {})] if isinstance(spec, str) else []
    for name, values in named:  # before torch is imported
        check_arguments("loss", name, values, f"train.loss {name}", skip=(COUNTS, *CALLED_WITH))
    _made(spec)


def build_task_loss(spec: Any, pixels_per_class: Any) -> Callable[..., Any]:
    """The loss on labels that a recipe names.

    Args:
        spec: a name (see `resolve`), ``{name: {argument: value}}``, several of these in one mapping, which are summed,
            or a loss already made. A loss is a function of
            ``logits`` (B, K, H, W), ``labels`` (B, H, W) and ``ignore_index``, by keyword, that returns a scalar; or a
            class whose objects are such functions.
        pixels_per_class: training pixels of each class, (K,), for losses that have an argument of this name.

    Raises:
        UserError: as `check_task_loss`.
    """
    make = _made(spec)
    return make(pixels_per_class)


def _made(spec: Any) -> Callable[[Any], Callable[..., Any]]:
    """What makes the loss, once the pixels are counted."""
    if callable(spec) and not isinstance(spec, type):
        return lambda _: spec
    if isinstance(spec, Mapping) and len(spec) > 1:
        makers = [_made({name: values}) for name, values in spec.items()]
        return lambda pixels_per_class: _Sum([make(pixels_per_class) for make in makers])
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, values = next(iter(spec.items()))
    else:
        name, values = spec, {}
    if not isinstance(name, str) or not isinstance(values, Mapping | None):
        raise UserError(f"train.loss is {spec!r}, expected a name, or {{name: {{argument: value}}}}")
    found = resolve("loss", name)
    parameters = inspect.signature(found).parameters
    skip = {COUNTS} if isinstance(found, type) else {COUNTS, *CALLED_WITH}
    arguments = checked_arguments(found, values or {}, f"train.loss {name}", skip=skip & set(parameters))
    arguments = {key: value for key, value in arguments.items() if key in (values or {})}
    if isinstance(found, type) and COUNTS not in parameters:
        found(**arguments)  # values out of range are told before anything is read

    def make(pixels_per_class: Any) -> Callable[..., Any]:
        given = arguments | ({COUNTS: pixels_per_class} if COUNTS in parameters else {})
        if isinstance(found, type):
            return found(**given)  # type: ignore[no-any-return]
        return partial(found, **given) if given else found

    return make


class _Sum:
    """Several task losses, added up."""

    def __init__(self, losses: Sequence[Callable[..., Any]]) -> None:
        self.losses = losses

    def __call__(self, **arguments: Any) -> Any:
        return sum(loss(**arguments) for loss in self.losses)
