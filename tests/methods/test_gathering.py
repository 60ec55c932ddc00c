"""The batch of two processes is worth the batch of one."""

from __future__ import annotations

import socket
from pathlib import Path

import torch
from torch import distributed, multiprocessing

from segdistill.methods.gathering import gather_batch


def whole_loss(maps: torch.Tensor) -> torch.Tensor:
    """Relates every image to every other."""
    rows = gather_batch(maps).flatten(1)
    return (rows @ rows.T).square().mean()


def part(rank: int, port: int, folder: Path) -> None:
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weights, images = start()
    loss = whole_loss(images[2 * rank : 2 * rank + 2] * weights)
    loss.backward()
    distributed.all_reduce(weights.grad)
    torch.save({"loss": loss.detach(), "slope": weights.grad / 2}, folder / f"{rank}.pt")
    distributed.destroy_process_group()


def start() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 1, 1, generator=generator, requires_grad=True)
    return weights, torch.randn(4, 3, 2, 5, generator=generator)


def test_two_processes_have_the_loss_and_gradient_of_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(part, args=(port, tmp_path), nprocs=2, start_method="spawn")
    weights, images = start()
    loss = whole_loss(images * weights)
    loss.backward()
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found["loss"], loss.detach())
        torch.testing.assert_close(found["slope"], weights.grad)


def test_alone_nothing_is_gathered() -> None:
    maps = torch.rand(2, 3, 4, 5)
    assert gather_batch(maps) is maps
