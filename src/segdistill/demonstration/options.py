"""`DemoOptions`: the arguments of `segdistill.demo`, checked without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segdistill.comparison.options import check_compared
from segdistill.device import check_device
from segdistill.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """What the demo trains, and where.

    Args:
        output: folder for the runs, the report and the picture.
        method: the distillation method, see segdistill methods; several are separated by + or commas.
        teacher_epochs: epochs of the teacher's training.
        epochs: epochs of the student's training, the same number alone and distilled.
        seed: random seed; the same seed gives the same runs.
        device: auto, cpu, cuda, cuda:N or mps.
        overwrite: replace the runs of an earlier demo in the output folder.
        quiet: print nothing.
    """

    output: str | Path = "demo"
    method: str = "auto"
    teacher_epochs: int = 5
    epochs: int = 6
    seed: int = 0
    device: str = "auto"
    overwrite: bool = True
    quiet: bool = False

    def __post_init__(self) -> None:
        if Path(self.output).is_file():
            raise UserError(f"output {self.output} is a file, expected a folder")
        check_compared(self.method)
        for name in ("teacher_epochs", "epochs"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least 1")
        check_device(self.device)
