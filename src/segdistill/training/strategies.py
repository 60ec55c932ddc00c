"""The processes and devices that share a run: Lightning Fabric, set up."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from datetime import timedelta
from types import FrameType

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from lightning.fabric.strategies.model_parallel import ModelParallelStrategy
from lightning.fabric.strategies.strategy import Strategy

from segdistill.device import choose_device
from segdistill.errors import UserError
from segdistill.training.options import RunOptions
from segdistill.training.sharding import shard_objective

#: How long a process waits for the others before it gives up on them.
PATIENCE = timedelta(minutes=10)


def launch(options: RunOptions, precision: str) -> Fabric:
    """Starts the processes of a run; each of them returns from here.

    Without several devices nothing is started. Under torchrun or SLURM the processes are there already.

    Args:
        options: device, devices, nodes and strategy of the run.
        precision: ``"bf16"``, ``"fp16"`` or ``"fp32"``.

    Raises:
        UserError: if there are fewer devices than asked for, or fsdp is asked for in fp16.
    """
    # Lightning's notes are about things decided here, and "GPU available: False" is no news.
    for name in ("lightning.fabric", "lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    device = choose_device(options.device)
    processes = options.processes
    if device.type == "cuda" and options.devices > torch.cuda.device_count():
        raise UserError(f"devices is {options.devices}, but this machine has {torch.cuda.device_count()} GPUs")
    strategy: str | Strategy = "auto"
    if options.strategy == "fsdp":
        if precision == "fp16":
            raise UserError("strategy fsdp trains in bf16 or fp32, but train.precision is fp16")
        # The library's own slicing of scores to the image's size; nothing writes into them.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        strategy = ModelParallelStrategy(
            shard_objective, data_parallel_size=processes, tensor_parallel_size=1, timeout=PATIENCE
        )
    elif processes > 1 or options.strategy == "ddp":
        strategy = DDPStrategy(timeout=PATIENCE, gradient_as_bucket_view=True)
    alone = device.type == "cuda" and processes == 1
    fabric = Fabric(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=[device.index or 0] if alone else options.devices,
        num_nodes=options.nodes,
        strategy=strategy,
        precision={"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


class StopSignals:
    """Notes SIGTERM (a scheduler's, or a spot machine's, last words) and Ctrl-C, so that a run can save and end.

    A second Ctrl-C does not wait. Only the main thread can listen; elsewhere nothing changes.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


class Stopped(KeyboardInterrupt):
    """A run that a signal ended, all saved.

    Attributes:
        exit_code: 130 for Ctrl-C, 143 for SIGTERM, as shells have it.
    """

    def __init__(self, number: int, where: str) -> None:
        super().__init__(where)
        self.exit_code = 128 + number
