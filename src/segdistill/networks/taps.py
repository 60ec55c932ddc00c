"""Taps: naming a place in a network, and recording what passes there during one forward."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from segdistill.errors import UserError

_GRAMMAR = re.compile(r"(?P<module>[^\[\]:]*)(?P<input>:input)?(?P<items>(\[[^\[\]]+\])*)")


@dataclass(frozen=True)
class TapPath:
    """A parsed tap name: ``module``, its output or (``:input``) its first input, then items of that.

    Example:
        >>> parse_tap("decode_head:input[2]")
        TapPath(module='decode_head', of_input=True, items=(2,))
        >>> parse_tap("backbone[feature_maps][0]").items
        ('feature_maps', 0)
    """

    module: str
    of_input: bool
    items: tuple[int | str, ...]


def parse_tap(name: str) -> TapPath:
    """Parse ``name``: the dotted name of a module ('' is the model itself), ``:input``, ``[i]`` or ``[key]``.

    Raises:
        UserError: the name does not follow that grammar.
    """
    match = _GRAMMAR.fullmatch(name)
    if match is None:
        raise UserError(
            f"tap '{name}' cannot be read: expected MODULE, MODULE:input, MODULE[2] or MODULE[key], "
            f"for example 'backbone.layer4', 'classifier.4:input' or 'encoder[5]'"
        )
    items = (item.strip("\"' ") for item in re.findall(r"\[([^\[\]]+)\]", match["items"]))
    return TapPath(
        module=match["module"],
        of_input=match["input"] is not None,
        items=tuple(int(item) if re.fullmatch(r"-?\d+", item) else item for item in items),
    )


def find_module(model: nn.Module, tap: str) -> nn.Module:
    """The module of ``model`` that ``tap`` names.

    Raises:
        UserError: there is no such module; the sentence names the nearest ones.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    name = parse_tap(tap).module
    if name not in modules:
        close = difflib.get_close_matches(name, [known for known in modules if known], n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else "no module has a name like it;"
        children = ", ".join(child for child, _ in model.named_children())
        raise UserError(f"tap '{tap}': {type(model).__name__} has no module '{name}': {hint} Its children: {children}")
    return modules[name]


@contextmanager
def record_taps(model: nn.Module, taps: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Record what passes at each of ``taps`` while the ``with`` block runs ``model``.

    The hooks live inside the block only: they are gone after it, also when it raises. A module that runs
    several times leaves what its last run showed.

    Yields:
        A dict that holds the (B, C, H, W) tensor of every tap once the block is left.

    Raises:
        UserError: a tap does not exist, was not reached, is no (B, C, H, W) tensor, or was overwritten in
            place by a later module (its values would be that module's).
    """
    seen: dict[str, Tensor] = {}
    versions: dict[str, int] = {}
    hooks = []

    def keep(tap: str, items: tuple[int | str, ...], value: Any) -> None:
        seen[tap] = _tensor_at(tap, items, value)
        versions[tap] = _version(seen[tap])

    try:
        for tap in taps:
            path = parse_tap(tap)
            module = find_module(model, tap)
            if path.of_input:
                hook = _input_hook(tap, path.items, keep)
                hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
            else:
                hooks.append(module.register_forward_hook(_output_hook(tap, path.items, keep)))
        yield seen
    finally:
        for handle in hooks:
            handle.remove()

    for tap in taps:
        if tap not in seen:
            raise UserError(f"tap '{tap}': {type(model).__name__} never runs that module in its forward")
        if _version(seen[tap]) != versions[tap]:
            raise UserError(
                f"tap '{tap}' is overwritten in place by a module after it (one with inplace=True): "
                f"tap that module instead, or set its inplace to False"
            )


_Keep = Callable[[str, tuple[int | str, ...], Any], None]


def _output_hook(tap: str, items: tuple[int | str, ...], keep: _Keep) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        keep(tap, items, output)

    return _not_compiled(hook)


def _input_hook(tap: str, items: tuple[int | str, ...], keep: _Keep) -> Callable[..., None]:
    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(tap, items, args[0] if args else next(iter(kwargs.values()), None))

    return _not_compiled(hook)


def _tensor_at(tap: str, items: tuple[int | str, ...], value: Any) -> Tensor:
    for item in items:
        try:
            # A key of a dict-like output, or an attribute of an output class; an index of a list or tuple.
            by_attribute = isinstance(item, str) and not isinstance(value, Mapping)
            value = getattr(value, str(item)) if by_attribute else value[item]
        except (AttributeError, IndexError, KeyError, TypeError):
            raise UserError(f"tap '{tap}': there is no [{item}] in {describe(value)}") from None
    if not isinstance(value, Tensor) or value.ndim != 4:
        raise UserError(f"tap '{tap}' shows {describe(value)}, expected a tensor (B, C, H, W)")
    return value


def describe(value: Any) -> str:
    """What ``value`` is, in a few words, for an error message.

    Example:
        >>> describe({"out": 1, "aux": 2})
        'a dict with keys out, aux'
    """
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with keys {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def _version(tensor: Tensor) -> int:
    # Tensors made under torch.inference_mode keep no count of in-place writes.
    return 0 if tensor.is_inference() else tensor._version


def _not_compiled(hook: Callable[..., None]) -> Callable[..., None]:
    """torch.compile leaves the hook out: each forward brings new ones, and each would be compiled anew."""
    plain: Callable[..., None] = torch.compiler.disable(hook)  # type: ignore[no-untyped-call]
    return plain
