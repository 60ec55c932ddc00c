"""The batch of two processes is worth the batch of one: `gather_batch`, and every method."""

from __future__ import annotations

import socket
from datetime import timedelta

import torch
from torch import Tensor, distributed, multiprocessing

from segdistill import Features
from segdistill.methods.gathering import gather_batch
from tests.methods.settings import SETTINGS, Setting
from tests.methods.test_memory import memory_step
from tests.methods.trial import case_of, changed

# Each process divides by its own sum of weights, and draws its own random numbers.
EXACT = [setting for setting in SETTINGS if not (setting.options.get("balance") or setting.weighted or setting.random)]


def relation(maps: Tensor) -> Tensor:
    """Relates every image to every other."""
    rows = gather_batch(maps).flatten(1)
    return (rows @ rows.T).square().mean()


def gathered(own: slice) -> list[Tensor]:
    """The loss, and its gradient by weights that all images share."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 1, 1, generator=generator, requires_grad=True)
    loss = relation(torch.randn(4, 3, 2, 5, generator=generator)[own] * weights)
    return [loss.detach(), *torch.autograd.grad(loss, weights)]


def method_step(setting: Setting, own: slice) -> list[Tensor]:
    """The method's value, and its gradients by its own parameters and by factors of the student's channels."""
    case = case_of(setting, images=4)
    part = lambda maps: maps[own]  # noqa: E731
    factors: list[Tensor] = []

    def student(maps: Tensor) -> Tensor:
        factors.append(torch.ones(1, maps.shape[1], 1, 1, requires_grad=True))
        return maps[own] * factors[-1]

    features: Features = changed(case.student, student)
    value = case.value(
        student=features,
        teacher=changed(case.teacher, part),
        labels=case.labels[own],
        valid=case.valid[own],
    )
    inputs = [*factors, *(parameter for parameter in case.method.parameters() if parameter.requires_grad)]
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    return [value.detach(), *(torch.zeros(()) if slope is None else slope for slope in gradients)]


def everything(own: slice, own_of_two: slice) -> dict[str, list[Tensor]]:
    found = {"gathered": gathered(own), "memories": memory_step(own_of_two)}
    return found | {str(setting): method_step(setting, own) for setting in EXACT}


def found_by(rank: int, port: int) -> dict[str, list[Tensor]]:
    """What one of two processes finds on its half of the batch; the mean over both, as DistributedDataParallel does."""
    timeout = timedelta(minutes=5)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2, timeout=timeout
    )
    try:
        found = everything(slice(2 * rank, 2 * rank + 2), slice(rank, rank + 1))
        values = [value for several in found.values() for value in several]
        together = torch.cat([value.flatten() for value in values])
        distributed.all_reduce(together)
    finally:
        distributed.destroy_process_group()
    for value, mean in zip(values, together.split([value.numel() for value in values]), strict=True):
        value.copy_(mean.view_as(value) / 2)
    return found


def second_process(_: int, port: int) -> None:
    torch.set_num_threads(1)
    found_by(1, port)


def test_two_processes_have_the_losses_and_gradients_of_one() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # This process is the first of the two: a new one takes seconds for its imports.
    second = multiprocessing.start_processes(second_process, args=(port,), nprocs=1, join=False, start_method="spawn")
    alone = everything(slice(4), slice(2))
    found = found_by(0, port)
    assert second.join(timeout=60)
    assert found.keys() == alone.keys()
    for name, values in alone.items():
        for ours, theirs in zip(found[name], values, strict=True):
            torch.testing.assert_close(
                ours, theirs, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_alone_nothing_is_gathered() -> None:
    maps = torch.rand(2, 3, 4, 5)
    assert gather_batch(maps) is maps
