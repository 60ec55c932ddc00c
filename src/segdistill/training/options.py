"""`RunOptions`: where and how a run is carried out. Nothing here changes its result."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from segdistill.device import check_device
from segdistill.errors import UserError

Strategy = Literal["auto", "ddp", "fsdp"]
Tracker = Literal["wandb", "mlflow"]
if typing.TYPE_CHECKING:
    Resume = bool
else:  # a run folder on the command line or as a keyword, which `takes_fields` turns into True and the folder's recipe
    Resume = bool | str | Path


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where and how a run is carried out.

    Args:
        output: folder of the run; it must not hold a run yet.
        device: auto, cpu, cuda, cuda:N or mps.
        devices: number of processes on each machine, one per device; each batch is split among them.
        nodes: number of machines; start the same command on each (docs/how-to/use-several-gpus.md).
        strategy: how several processes work together: ddp (each holds all weights) or fsdp (each holds a part of them);
            auto is a single process, or ddp where there are several.
        compile: compile the network with torch.compile; if that fails, it is trained uncompiled.
        checkpoint_minutes: minutes between checkpoints within an epoch; the end of each epoch writes one in any case.
        tracker: also report to wandb or mlflow, which must be installed.
        resume: continue from the last checkpoint in the output folder; a finished run is left unchanged. A run folder
            instead of true: recipe and output are those of that run and need not be given.
        overwrite: replace the run in the output folder.
        dry_run: take a few steps, print a summary of the run and how long it would take, and write nothing.
        quiet: print nothing.
    """

    output: str | Path
    device: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Strategy = "auto"
    compile: bool = False
    checkpoint_minutes: float = 10.0
    tracker: Tracker | None = None
    resume: Resume = False
    overwrite: bool = False
    dry_run: bool = False
    quiet: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)
        for name in ("devices", "nodes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        if self.strategy == "fsdp" and self.processes == 1:
            raise UserError("strategy fsdp splits weights among processes, but devices is 1; give 2 or more")
        if self.compile and self.strategy == "fsdp":
            raise UserError("compile and strategy fsdp do not go together; choose one, or strategy ddp")
        if not self.checkpoint_minutes >= 0:
            raise UserError(f"checkpoint_minutes is {self.checkpoint_minutes}, expected 0 or more")

    @property
    def processes(self) -> int:
        """Number of processes on all machines together."""
        return self.devices * self.nodes
