"""Weights shared out among two processes over gloo, against the same network whole in one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

import segdistill
from segdistill import Network
from segdistill.training.sharding import gathered, load_optimizer, load_whole, shard, whole_network, whole_state

# transformers looks up what a model returns by its class, and calls one part by another method than forward.
NETWORKS = ("smp:FPN:tu-mobilenetv3_small_050", "transformers:segformer")


def build(spec: str) -> tuple[Network, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = segdistill.load_network(spec, num_classes=3).eval()  # batch statistics would be of half a batch
    return network.to(memory_format=torch.channels_last), adam(network)


def adam(network: nn.Module) -> torch.optim.Optimizer:
    # With the usual eps the first steps are the gradient's sign, rounding errors' too.
    return torch.optim.AdamW(network.parameters(), lr=1e-3, eps=1e-2)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    F.cross_entropy(network(images), labels).backward()
    optimizer.step()


def flat(state: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten().float() for value in state.values()])


def process(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.set_num_threads(1)
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, 64, 64, generator=generator)
    labels = torch.randint(0, 3, (4, 64, 64), generator=generator)
    mine = slice(2 * rank, 2 * rank + 2)
    for spec in NETWORKS:
        reference, reference_optimizer = build(spec)
        began = flat(reference.state_dict())
        network = copy.deepcopy(reference)
        shard(network, mesh)
        optimizer = adam(network)
        assert all(isinstance(parameter, DTensor) for parameter in network.parameters())
        assert sum(isinstance(module, FSDPModule) for module in network.modules()) > 2

        with whole_network(network), torch.inference_mode():
            for _ in range(rank + 1):  # one process has more images than the other
                torch.testing.assert_close(network(images), reference(images), rtol=1e-3, atol=1e-4)
        for _ in range(2):
            step(network, optimizer, images[mine], labels[mine])
            step(reference, reference_optimizer, images, labels)
        kept = [copy.deepcopy([whole_state(network), gathered(optimizer.state_dict())])]
        assert bool(kept[0][0]) == (rank == 0)
        distributed.broadcast_object_list(kept)  # as if every process read the first one's file
        weights, momenta = kept[0]
        way = flat(reference.state_dict()) - began
        ours = flat(weights) - began
        assert (ours - way).norm() < 1e-2 * way.norm()

        # What was kept, put into another one, goes on as the first.
        other = build(spec)[0]
        shard(other, mesh)
        load_whole(other, weights)
        other_optimizer = adam(other)
        load_optimizer(other_optimizer, momenta)
        step(network, optimizer, images[mine], labels[mine])
        step(other, other_optimizer, images[mine], labels[mine])
        for ours, theirs in zip(network.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(ours.to_local(), theirs.to_local(), rtol=0, atol=0)
    distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_shared_out_networks_learn_as_whole_ones(tmp_path: Path) -> None:
    multiprocessing.spawn(process, args=(str(tmp_path),), nprocs=2)


def test_a_network_that_is_whole_stays_so() -> None:
    network = nn.Conv2d(3, 2, 1)
    with whole_network(network):
        state = gathered(network.state_dict())
    assert state["weight"] is not None
    assert state["weight"].data_ptr() == network.weight.data_ptr()
    other = nn.Conv2d(3, 2, 1)
    load_whole(other, whole_state(network))
    assert torch.equal(other.weight, network.weight)
