"""A GPU that is not there: tensors with a device and shapes, and without values."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

CUDA = torch.device("cuda", 0)


def mode() -> FakeTensorMode:
    """What is computed within it has no values.

    An operation on tensors of two devices raises, as it does on a GPU; so does the reading of a value of the GPU, for
    which the host would have to wait. Real tensors are on the CPU.
    """
    return FakeTensorMode(allow_non_fake_inputs=True)


def moved(module: nn.Module, fake: FakeTensorMode) -> None:
    """Moves a module as ``module.to("cuda")`` does."""

    def on_cuda(tensor: Tensor) -> Tensor:
        with fake:
            return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)

    module._apply(on_cuda)


def backward(loss: Tensor) -> dict[Tensor, Tensor]:
    """The gradients of the leaves of a graph. torch's own engine would start a thread on the GPU."""
    assert loss.grad_fn is not None
    order: list[torch.autograd.graph.Node] = []
    seen: set[torch.autograd.graph.Node] = set()
    waiting = [(loss.grad_fn, False)]
    while waiting:
        node, is_done = waiting.pop()
        if is_done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            waiting += [(node, True), *((child, False) for child, _ in node.next_functions if child is not None)]
    arrived: dict[torch.autograd.graph.Node, dict[int, Tensor]] = defaultdict(dict)
    arrived[loss.grad_fn][0] = torch.ones_like(loss)
    gradients: dict[Tensor, Tensor] = {}
    for node in reversed(order):
        given = arrived.pop(node, {})
        if hasattr(node, "variable"):
            if given:
                gradients[node.variable] = given[0]
            continue
        # A function written in Python is called by another name, and returns None for arguments that are no tensors.
        in_python = isinstance(node, torch.autograd.function.BackwardCFunction)
        found = (node.apply if in_python else node)(*(given.get(place) for place in range(len(node._input_metadata))))
        found = found if isinstance(found, tuple) else (found,)
        children = node.next_functions
        if in_python:
            found = tuple(gradient for gradient in found if gradient is not None)
            children = tuple(child for child in children if child[0] is not None)
        for (child, place), gradient in zip(children, found, strict=True):
            if child is not None and gradient is not None:
                wanted = child._input_metadata[place]
                part = gradient.sum_to_size(wanted.shape).to(wanted.dtype)  # as the engine does
                earlier = arrived[child].get(place)
                arrived[child][place] = part if earlier is None else earlier + part
    return gradients
