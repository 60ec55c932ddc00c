"""What this machine is, and what a process takes of it."""

from __future__ import annotations

import platform
import re
from pathlib import Path


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
