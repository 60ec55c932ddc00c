"""Sharded weights (FSDP2): each process holds its part of networks, gradients, averages and optimiser state."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
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
    """The processes among which weights are sharded; None where each process has all of them."""
    strategy = fabric.strategy
    return strategy.device_mesh["data_parallel"] if isinstance(strategy, ModelParallelStrategy) else None


def shard_objective(objective: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shards student, teacher and adapters of an `Objective`; Lightning's strategy calls this."""
    mesh = mesh["data_parallel"]
    learner = cast(Any, objective.learner)
    shard(learner.student, mesh)
    if isinstance(getattr(learner, "teacher", None), Network):
        for part in learner.teacher.parts:
            shard(part, mesh)
    # Layer by layer, since a method may be called by other methods than its forward (`teacher_outputs`).
    beside = [getattr(learner, "methods", None), learner.auxiliary]
    for module in [part for one in beside if one is not None for part in one.modules()]:
        if any(parameter.requires_grad for parameter in module.parameters(recurse=False)):
            _fully_shard(module, mesh)
    return objective


def shard(network: Network, mesh: DeviceMesh) -> None:
    """Shards a network's weights; a forward gathers what it needs, part by part, and frees it again.

    Args:
        network: the same on every process, on its device.
        mesh: the processes, one dimension.
    """
    for part in _parts(network):
        _fully_shard(part, mesh)
    _fully_shard(network, mesh)


@contextlib.contextmanager
def whole_network(network: nn.Module) -> Iterator[None]:
    """Within, every process has all weights, and the first process's buffers, and may run the network on its own.

    Every process must enter this. A network that is not sharded stays as it is.
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
    """Mappings, lists and tensors with every sharded tensor made whole, on the CPU; the rest as it is.

    Every process must call this with the same tree.
    """
    if isinstance(tree, DTensor):
        return tree.full_tensor().cpu()
    if isinstance(tree, Mapping):
        return {name: gathered(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [gathered(value) for value in tree]
    return tree


def whole_state(module: nn.Module) -> dict[str, Any]:
    """A module's state with every tensor whole, on the CPU of the first process; other processes get none.

    Every process must call this.
    """
    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def load_whole(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Loads what `whole_state` gave, each process its own part. Every process must call this, with the same values.

    Raises:
        RuntimeError: if it belongs to another module.
    """
    # What is missing would be left as it is, without a word, even with strict=True.
    missing = [name for name in module.state_dict() if name not in state]
    if missing:
        raise RuntimeError(
            f"Error(s) in loading state_dict for {type(module).__name__}: Missing key(s) in state_dict: "
            f"{', '.join(missing)}"
        )
    set_model_state_dict(module, dict(state), options=StateDictOptions(full_state_dict=True, strict=True))


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads an optimiser's whole state, each process its own part. Every process must call this, with the same values.

    Not `torch.distributed.checkpoint.state_dict.set_optimizer_state_dict`: it makes a step with zero gradients first,
    which leaves a state for parameters that had none, so that the run would not continue bit for bit.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    own = {
        index: {name: _part(value, parameters[index]) for name, value in kept.items()}
        for index, kept in state["state"].items()
        if index < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": own})


def _part(value: Any, like: nn.Parameter) -> Any:
    """A whole tensor, sharded as ``like`` is; others, such as the optimiser's count of steps, as they are."""
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
