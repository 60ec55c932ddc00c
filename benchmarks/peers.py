"""Our losses beside those of torchdistill that bear the same name: values, time and memory, forward and backward.

torchdistill is needed for this benchmark alone. Install it into a folder of its own, and name that folder:

    pip install --no-deps --target peers torchdistill==1.1.5
    PYTHONPATH=peers python benchmarks/peers.py [--device cuda] [--threads 2]

Both sides get the same random features. Their value is converted to our reduction where that is possible; the last
column says how, or why it is not. Time is the median of repeats that take turns; with one thread, that of the
processor. Memory is the growth of the peak, each loss in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from relations import alone, plain_affinity, resident_peak, run, seconds_of
from segdistill import losses

Loss = Callable[[Tensor, Tensor], Tensor]
SIZE, CLASSES, TEMPERATURE = 64, 19, 4.0


@dataclass(frozen=True)
class Pair:
    """A loss of ours and theirs.

    Args:
        name: shown in the table.
        ours: our loss, by name in `OURS`.
        theirs: theirs, by name in `THEIRS`.
        channels: of the student's map and the teacher's.
        batch: images.
        factor: what their value is multiplied by to have our reduction; None where the formulas differ.
        reason: the difference in words.
    """

    name: str
    ours: str
    theirs: str
    channels: tuple[int, int]
    batch: int
    factor: float | None
    reason: str


def _their(kind: str, **options: Any) -> Loss:
    made = getattr(importlib.import_module("torchdistill.losses.mid_level"), kind)
    paths = {"student_module_path": "s", "student_module_io": "output"}
    paths |= {"teacher_module_path": "t", "teacher_module_io": "output"}
    loss = made(**(paths | options))
    return lambda student, teacher: loss({"s": {"output": student}}, {"t": {"output": teacher}})


def _their_attention() -> Loss:
    pairs = {"pair": {"student": {"path": "s", "io": "output"}, "teacher": {"path": "t", "io": "output"}}}
    return _their("ATLoss", at_pairs=pairs, mode="code")


def _their_dist() -> Loss:
    """With every pixel as a sample: of maps it would relate each pixel to itself across the batch."""
    loss = _their("DISTLoss", tau=TEMPERATURE)
    rows = lambda maps: maps.permute(0, 2, 3, 1).flatten(0, 2)  # noqa: E731
    return lambda student, teacher: loss(rows(student), rows(teacher))


def _our_dist(student: Tensor, teacher: Tensor) -> Tensor:
    classes = losses.class_correlation(student=student, teacher=teacher, temperature=TEMPERATURE)
    positions = losses.position_correlation(student=student, teacher=teacher, temperature=TEMPERATURE, across="batch")
    return classes + positions


OURS: dict[str, Loss] = {
    "kd": lambda s, t: losses.pixel_kl(student=s, teacher=t, temperature=TEMPERATURE),
    "at": lambda s, t: losses.attention_mse(student=s, teacher=t),
    "dist": _our_dist,
    "adapt": lambda s, t: losses.latent_distance(student=s, teacher=t),
    "affinity": lambda s, t: losses.affinity_mse(student=s, teacher=t),
}
THEIRS: dict[str, Callable[[], Loss]] = {
    "kd": lambda: _their("KDLoss", temperature=TEMPERATURE, alpha=0),
    "at": _their_attention,
    "dist": _their_dist,
    "adapt": lambda: _their("KTALoss", knowledge_translator_path="t", feature_adapter_path="s"),
    "affinity": lambda: _their("AffinityLoss"),
    "plain affinity": lambda: plain_affinity,
}
POSITIONS = SIZE * SIZE
PAIRS = [
    Pair("KD", "kd", "kd", (CLASSES, CLASSES), 4, TEMPERATURE**2 / POSITIONS, "theirs: sum over pixels, without T^2"),
    Pair("AT", "at", "at", (256, 256), 4, POSITIONS, "theirs: mean over positions; ours: sum"),
    Pair("DIST over the batch", "dist", "dist", (CLASSES, CLASSES), 4, 1.0, "theirs takes pixels as rows"),
    Pair("KA, adapt", "adapt", "adapt", (256, 256), 4, None, "theirs: the whole image is one vector of unit length"),
    Pair("affinity, plain N x N", "affinity", "plain affinity", (128, 256), 2, 1.0, "same formula"),
    Pair("affinity, plain N x N", "affinity", "plain affinity", (256, 256), 2, 1.0, "same formula"),
    Pair("KA, affinity", "affinity", "affinity", (8, 8), 1, None, "theirs: unit length along positions, per channel"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="processor threads")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.device}, {options.threads} threads; torch {torch.__version__}; {SIZE} x {SIZE}; float32")
    print("| loss | batch x channels | ours | theirs | theirs, our reduction | time | memory | difference |")
    print("|---|---|---|---|---|---|---|---|")
    for index, pair in enumerate(PAIRS):
        values, times = alone(options.threads, _values_and_times, index, options.repeats, options.device)
        kept = [alone(options.threads, _peak_bytes, index, ours, options.device) for ours in (True, False)]
        converted = "" if pair.factor is None else f"{values[1] * pair.factor:.6g}"
        widths = " and ".join(map(str, sorted(set(pair.channels))))
        print(
            f"| {pair.name} | {pair.batch} x {widths} | {values[0]:.6g} | {values[1]:.6g} | {converted} "
            f"| {1e3 * times[0]:.1f} / {1e3 * times[1]:.1f} ms: {times[1] / times[0]:.1f}x "
            f"| {kept[0] / 1e6:.0f} / {kept[1] / 1e6:.0f} MB | {pair.reason} |",
            flush=True,
        )


def _both(pair: Pair) -> list[Loss]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [OURS[pair.ours], THEIRS[pair.theirs]()]


def _inputs(pair: Pair, size: int, device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        torch.randn(pair.batch, width, size, size, generator=generator).to(device) for width in pair.channels
    )
    return student.requires_grad_(), teacher


def _values_and_times(index: int, repeats: int, device: str) -> tuple[list[float], list[float]]:
    pair = PAIRS[index]
    both = _both(pair)
    student, teacher = _inputs(pair, SIZE, device)
    return [loss(student, teacher).item() for loss in both], seconds_of(both, student, teacher, repeats)


def _peak_bytes(index: int, ours: bool, device: str) -> int:
    pair = PAIRS[index]
    loss = _both(pair)[0 if ours else 1]
    run(loss, *_inputs(pair, 16, device))  # what libraries allocate once is not the loss's
    student, teacher = _inputs(pair, SIZE, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(loss, student, teacher)
        return torch.cuda.max_memory_allocated() - before
    before = resident_peak()
    run(loss, student, teacher)
    return resident_peak() - before


if __name__ == "__main__":
    main()
