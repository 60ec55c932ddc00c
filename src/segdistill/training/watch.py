"""Warn once of what looks wrong in a run, without stopping it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from segdistill.metrics.scores import Scores

#: A distillation term beyond these times the task loss drowns it, or does nothing.
LARGEST, SMALLEST = 10.0, 0.01


class Watch:
    """Warnings about a run, each one line, each said once.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say
        self._said: set[str] = set()

    def terms(self, means: Mapping[str, float]) -> None:
        """An epoch's mean of every loss term: warn of one far above or below the task loss."""
        task = means.get("task", 0.0)
        if task <= 0:
            return
        for name, value in means.items():
            ratio = value / task
            if name != "task" and not SMALLEST <= ratio <= LARGEST:
                amount = f"{ratio:.0f} times" if ratio > 1 else f"{100 * ratio:.2g} % of"
                # Default weights may be large on purpose, where the teacher is the better guide.
                advice = "if val mIoU stays low, lower" if ratio > 1 else "raise"
                self._once(
                    name, f"warning: {name} is {amount} the task loss; {advice} its weight, or set loss_weights: auto"
                )

    def teacher(self, teacher: float, student: float) -> None:
        """mIoU of both at the first validation."""
        if teacher < student:
            self._once(
                "teacher",
                f"warning: the teacher's mIoU is {teacher:.2f} here, below the student's {student:.2f} after its first "
                "epochs; was the teacher trained on these classes?",
            )

    def classes(self, scores: Scores, loss: str) -> None:
        """Scores of the finished run and its loss on labels: classes that occur, and no pixel was rightly taken for."""
        never = ", ".join(name for name, iou in scores.iou.items() if iou == 0)
        if never:
            hint = "" if "balanced" in loss else "; train.loss balanced may help"
            self._once("classes", f"warning: no pixel was predicted correctly as {never}{hint}")

    def _once(self, key: str, line: str) -> None:
        if key not in self._said:
            self._said.add(key)
            self._say(line)
