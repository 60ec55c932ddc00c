"""The processes and devices that share a run: Lightning Fabric, set up."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy

from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.training.sharding import shard_objective

#: How long a process waits for the others before it gives up on them.
PATIENCE = timedelta(minutes=10)


def launch(
    device: str | torch.device,
    precision: str,
    *,
    devices: int = 1,
    nodes: int = 1,
    strategy: Literal["auto", "ddp", "fsdp"] = "auto",
) -> Fabric:
    """Starts the processes of a run; each of them returns from here.

    Without several devices nothing is started. Under torchrun or SLURM the processes are there already.

    Args:
        device: see `choose_device`.
        precision: ``"bf16"``, ``"fp16"`` or ``"fp32"``.
        devices, nodes, strategy: see `RunOptions`.

    Raises:
        UserError: if there are fewer devices than asked for, or fsdp is asked for in fp16.
    """
    device = choose_device(str(device))
    processes = devices * nodes
    if device.type == "cuda" and devices > torch.cuda.device_count():
        raise UserError(f"devices is {devices}, but this machine has {torch.cuda.device_count()} GPUs")
    engine: str | Strategy = "auto"
    if strategy == "fsdp":
        if precision == "fp16":
            raise UserError("strategy fsdp trains in bf16 or fp32, but train.precision is fp16")
        engine = ModelParallelStrategy(
            shard_objective, data_parallel_size=processes, tensor_parallel_size=1, timeout=PATIENCE
        )
    elif processes > 1 or strategy == "ddp":
        engine = DDPStrategy(timeout=PATIENCE, gradient_as_bucket_view=True)
    alone = device.type == "cuda" and processes == 1
    with without_lightning_notes():
        fabric = Fabric(
            accelerator={"cuda": "gpu"}.get(device.type, device.type),
            devices=[device.index or 0] if alone else devices,
            num_nodes=nodes,
            strategy=engine,
            precision={"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}[precision],  # type: ignore[arg-type]
        )
        fabric.launch()
    return fabric


@contextmanager
def without_lightning_notes() -> Iterator[None]:
    """Within, Lightning's notes and warnings are not shown; afterwards all is as the host process had it.

    They are about choices made here, such as "GPU available: False".
    """
    names = ("lightning_fabric", "lightning_fabric.utilities.rank_zero")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning_fabric\..*")
        # The library's own slicing of scores to the image's size; nothing writes into them.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def raised_by_all(fabric: Fabric) -> Iterator[None]:
    """Let the other processes wait for what the first one does here, and raise its error where it fails."""
    told: str | None = None
    try:
        yield
    except UserError as error:
        told = str(error)
    told = fabric.broadcast(told)
    if told is not None:
        raise UserError(told)
