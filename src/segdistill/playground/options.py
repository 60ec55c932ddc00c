"""`PlayOptions`: the arguments of `segdistill.play`, checked without torch."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from pathlib import Path

from segdistill.device import check_device
from segdistill.errors import UserError
from segdistill.networks.there import check_there


@dataclass(frozen=True)
class PlayOptions:
    """Which networks the page shows, and who can reach it.

    Args:
        runs: run folders or exported files, such as model.onnx, of the same classes, such as a teacher and its
            students.
        host: the address to listen on; 0.0.0.0 opens the page to everybody who can reach this machine.
        port: the port; if it is taken, the next free one is used.
        max_megabytes: the largest image file that the page takes, in units of 2^20 bytes.
        device: auto, cpu, cuda, cuda:N or mps; exported files run on the CPU.
        quiet: print nothing but the address and warnings.
    """

    runs: list[str | Path] | str | Path
    _: KW_ONLY
    host: str = "127.0.0.1"
    port: int = 7860
    max_megabytes: float = 20.0
    device: str = "auto"
    quiet: bool = False

    def __post_init__(self) -> None:
        if not self.max_megabytes > 0:
            raise UserError(f"max_megabytes is {self.max_megabytes}, expected a number above 0")
        check_device(self.device)
        for run in self.models:
            check_there(run)

    @property
    def models(self) -> tuple[str, ...]:
        """The networks, also where a single one is given."""
        return tuple(map(str, self.runs)) if isinstance(self.runs, list | tuple) else (str(self.runs),)
