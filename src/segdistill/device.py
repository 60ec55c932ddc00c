"""The machine: its devices, the precision it is fast in, its processor and memory."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from segdistill.errors import UserError

if TYPE_CHECKING:
    import torch


def check_device(device: str | torch.device) -> None:
    """Check how a device is written, without torch; `choose_device` also checks that it is there.

    Raises:
        UserError: it is none of auto, cpu, cuda, cuda:N and mps.
    """
    if re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(device)) is None:
        raise _no_such(device)


def choose_device(device: str | torch.device) -> torch.device:
    """The device that ``"auto"``, ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"`` means on this machine.

    Raises:
        UserError: if there is no such device here.
    """
    import torch

    check_device(device)
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise _no_such(device) from error
    return chosen


def wait_for(device: torch.device) -> None:
    """Returns once a device has done all that it was given, so that a clock tells the truth."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def processor() -> str:
    """The processor's name, as the system tells it."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def peak_memory_mb() -> float | None:
    """The most memory that this process has had so far, in 10^6 bytes; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux its maximum begins with that of the process that started this one.
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(), re.MULTILINE)
        return None if found is None else int(found[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS counts bytes


def _no_such(device: str | torch.device) -> UserError:
    return UserError(f"device '{device}' is not available here; expected auto, cpu, cuda, cuda:N or mps")


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision to train with: ``"bf16"``, ``"fp16"`` or ``"fp32"``.

    Args:
        precision: one of these or ``"auto"``, which is bf16 where the hardware computes in it, else fp32.
        device: where the training is to run.

    A CPU without bf16 instructions emulates them some fifty times slower than fp32 (measured on an AVX2 machine), and
    no CPU trains in fp16; fp32 is returned there whatever was asked for, so that one recipe serves every machine.
    """
    import torch

    if precision == "fp16" and device.type == "cpu":
        return "fp32"
    if precision not in ("auto", "bf16"):
        return precision
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bf16" if native or precision == "bf16" else "fp32"
    if device.type == "cpu":
        # Older torch cannot tell; fp32 is the safe answer.
        features: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"
    return precision if precision != "auto" else "fp32"
