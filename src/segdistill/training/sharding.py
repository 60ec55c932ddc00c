"""Weights shared out among processes (FSDP2): each holds its part of networks, gradients, averages and optimiser."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from segdistill.networks.network import Network
from segdistill.networks.size import example_images, untouched

#: Weights that travel together: from this many on a part of a network does on its own ...
LEAST = 100_000
#: ... and with more than this many its own parts do.
MOST = 20_000_000


def mesh_of(fabric: Fabric) -> DeviceMesh | None:
    """The processes that share out weights; None where each has all of them."""
    strategy = fabric.strategy
    return strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None


def shard_objective(objective: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shares out student, teacher and adapters of an `Objective`; given to Lightning's strategy."""
    mesh = mesh["data_parallel"]
    learner = cast(Any, objective.learner)
    shard(learner.student, mesh)
    if isinstance(getattr(learner, "teacher", None), Network):
        shard(learner.teacher, mesh)
    # Layer by layer, since what a method calls besides itself (`targets`) is its own affair.
    for module in list(getattr(learner, "methods", nn.Module()).modules()):
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            _fully_shard(module, mesh)
    return objective


def shard(network: Network, mesh: DeviceMesh) -> None:
    """Shares out a network's weights; a forward fetches what it needs, part by part, and lets it go again.

    Args:
        network: the same on every process, on its device.
        mesh: the processes, one dimension.
    """
    for part in _parts(network):
        _fully_shard(part, mesh)
    _fully_shard(network, mesh)


@contextlib.contextmanager
def whole_network(network: nn.Module) -> Iterator[None]:
    """Inside, every process has all weights, and the first one's buffers: it may go through images of its own.

    All processes must come here. For a network that is not shared out nothing changes.
    """
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.set_reshard_after_backward(False, recurse=False)
        part.unshard()
    if parts:
        for buffer in network.buffers():
            distributed.broadcast(buffer, 0)
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # A network's outermost part stays until the backward pass, which begins with it.
            part.set_reshard_after_forward(not isinstance(part, Network), recurse=False)
            part.set_reshard_after_backward(True, recurse=False)


def gathered(tree: Any) -> Any:
    """Mappings, lists and tensors with every shared-out tensor made whole, on the CPU; the rest as it is.

    All processes must come here with the same tree.
    """
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {name: gathered(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    return tree


def scattered(whole: Mapping[str, Any], like: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors by name, shared out where those of the same names in ``like`` are; the rest as it is.

    All processes must come here, with the same values.
    """
    return {name: _scatter(value, like.get(name)) for name, value in whole.items()}


def scattered_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimiser's whole state, shared out as the optimiser's parameters are."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        index: {
            name: _scatter(value, parameters[index] if index < len(parameters) else None)
            for name, value in kept.items()
        }
        for index, kept in state["state"].items()
    }
    return {**state, "state": own}


def _scatter(value: Any, like: Any) -> Any:
    # Other shapes are no such tensor (an optimiser's count of steps), or an error that the reader tells of.
    if not isinstance(like, DTensor) or not isinstance(value, Tensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _fully_shard(module: nn.Module, mesh: DeviceMesh) -> None:
    for parameter in module.parameters():
        if not isinstance(parameter, DTensor):
            parameter.data = parameter.data.contiguous()  # FSDP takes no channels-last weights
    fully_shard(module, mesh=mesh)


def _parts(network: Network) -> list[nn.Module]:
    """Parts of ``network`` that hold `LEAST` to `MOST` weights, one inside the other nowhere.

    Only those that are called once in a forward: what FSDP does hangs on the call, and some models use a part of
    theirs by another method.
    """
    calls: Counter[nn.Module] = Counter()
    hooks = [
        module.register_forward_pre_hook(lambda module, _: calls.update([module])) for module in network.model.modules()
    ]
    size = -(-128 // network.multiple) * network.multiple
    try:
        with untouched(network):
            network(example_images(network.model, network.info.in_channels, (size, size)))
    finally:
        for hook in hooks:
            hook.remove()

    def within(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            weights = sum(parameter.numel() for parameter in child.parameters())
            if weights < LEAST:
                continue
            # FSDP gives a module another class, by which transformers looks up what a model of its own returns.
            named_by_class = hasattr(child, "_can_record_outputs")
            if calls[child] == 1 and not named_by_class and (weights <= MOST or not any(child.children())):
                yield child
            else:
                yield from within(child)

    return list(within(network.model))
