"""What a check of a data set found, as a table for people and as plain values for programs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segdistill.datasets import LabelCounts
from segdistill.errors import printable
from segdistill.progress import counted

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_NAMED = 2  # files in a finding's sentence
STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan"}


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: "error" spoils a run or its scores, "warning" may, "note" is good to know.
        kind: a short name of what it is, for programs.
        split: the split, or ``None`` where it concerns several.
        what: one sentence, what was found.
        advice: one sentence, what to do.
        files: every file concerned, each with what is special about it.
        reasons: of each of these, the end that says what is special; empty where that is not known.
    """

    severity: Severity
    kind: str
    split: str | None
    what: str
    advice: str
    files: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """All of it in one line, with the first files.

        Example:
            >>> Finding("warning", "blank-image", "val", "3 blank images", "look at them", ("a", "b", "c")).sentence
            'val: 3 blank images: a, b and 1 more; look at them'
        """
        where = f"{self.split}: " if self.split else ""
        more = f" and {len(self.files) - _NAMED} more" if len(self.files) > _NAMED else ""
        files = f": {', '.join(self.files[:_NAMED])}{more}" if self.files else ""
        return printable(f"{where}{self.what}{files}; {self.advice}")

    def lines(self, names: int) -> list[str]:
        """The files for reading, up to ``names`` of them; what several have in common is said once.

        Example:
            >>> files = ("a.png has 16 bits", "b.png has 16 bits", "c.png is empty")
            >>> Finding("error", "unreadable", None, "", "", files, ("has 16 bits", "has 16 bits", "is empty")).lines(9)
            ['has 16 bits:', '    a.png', '    b.png', 'c.png is empty']
        """
        groups: dict[str, list[str]] = {}
        for file, reason in zip(self.files, self.reasons or ("",) * len(self.files), strict=True):
            groups.setdefault(reason, []).append(file)
        lines: list[str] = []
        left = names
        for reason, files in groups.items():
            shown = files[:left]
            left -= len(shown)
            if reason and len(files) > 1 and shown:
                lines.append(f"{reason}:")
                shown = [f"    {file.removesuffix(reason).rstrip(' :')}" for file in shown]
            lines += shown
        if len(self.files) > names:
            lines.append(f"... and {len(self.files) - names} more")
        return lines


@dataclass(frozen=True)
class SplitSummary:
    """What a split holds.

    Attributes:
        samples: pairs of image and mask.
        readable_masks: how many of the masks hold labels of the classes; ``counts`` is about these.
        sizes: how many images there are of each (height, width) in pixels.
        counts: labelled pixels of each class, and ignored ones.
    """

    samples: int
    readable_masks: int
    sizes: Mapping[tuple[int, int], int]
    counts: LabelCounts


@dataclass(frozen=True)
class DataReport:
    """All that `check_data` found.

    Attributes:
        data: the data set, as given.
        classes: names of the classes.
        splits: the splits that could be opened, by name.
        findings: errors first.
    """

    data: Mapping[str, Any]
    classes: tuple[str, ...]
    splits: Mapping[str, SplitSummary]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found that would spoil a run."""
        return all(finding.severity != "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with every file of every finding; shares are of all pixels, 0 to 1."""
        splits = {}
        for name, split in self.splits.items():
            splits[name] = {
                "samples": split.samples,
                "readable_masks": split.readable_masks,
                "sizes": [
                    {"height": height, "width": width, "images": images}
                    for (height, width), images in split.sizes.items()
                ],
                "share": dict(zip(self.classes, split.counts.shares.tolist(), strict=True)),
                "ignored": ignored_share(split.counts),
            }
        findings = [
            {
                "severity": finding.severity,
                "kind": finding.kind,
                "split": finding.split,
                "what": finding.what,
                "advice": finding.advice,
                "files": [printable(file) for file in finding.files],
            }
            for finding in self.findings
        ]
        return {
            "ok": self.ok,
            "data": dict(self.data),
            "classes": list(self.classes),
            "splits": splits,
            "findings": findings,
        }

    def show(self, console: Console, names: int) -> None:
        """Prints the splits as a table, and each finding with up to ``names`` files below it."""
        place = printable(f"{self.data['dataset']} {self.data.get('root', '')}".strip())
        console.print(Text(place, style="bold"), soft_wrap=True)  # a path can be wider than the table
        console.print(self._table())
        for finding in self.findings:
            head = Text(f"\n{finding.severity}", style=STYLES[finding.severity])
            head.append(f"  {finding.split}: " if finding.split else "  ", style="default not bold")
            head.append(printable(finding.what), style="default not bold")
            console.print(head, soft_wrap=True)
            console.print(Text(f"    to do: {printable(finding.advice)}"), soft_wrap=True)
            for line in finding.lines(names):
                console.print(Text(f"    {printable(line)}", style="dim"), soft_wrap=True)
        numbers = [
            counted(sum(finding.severity == severity for finding in self.findings), severity) for severity in SEVERITIES
        ]
        if not self.ok:
            verdict = "mend the errors before a run"
        elif any(finding.severity == "warning" for finding in self.findings):
            verdict = "a run would start; look at the warnings first"
        else:
            verdict = "nothing here would spoil a run"
        console.print(Text(f"\n{', '.join(numbers)}: {verdict}"), soft_wrap=True)

    def _table(self) -> Table:
        table = Table()
        table.add_column("")
        for name in self.splits:
            table.add_column(Text(printable(name)), justify="right")
        splits = self.splits.values()
        table.add_row("images with a mask", *(str(split.samples) for split in splits))
        table.add_row("masks that can be read", *(str(split.readable_masks) for split in splits))
        table.add_row("width x height", *(_sizes(split.sizes) for split in splits))
        table.add_section()
        for label, name in enumerate(self.classes):
            shares = (_share(split, float(split.counts.shares[label])) for split in splits)
            table.add_row(Text(printable(f"{label} {name}")), *shares)
        table.add_row("ignored", *(_share(split, ignored_share(split.counts)) for split in splits))
        return table


def ignored_share(counts: LabelCounts) -> float:
    """The share of ignored pixels among all, 0 to 1."""
    return counts.ignored / max(1, int(counts.pixels.sum()) + counts.ignored)


def percent(share: float) -> str:
    """A share of 0 to 1 for reading; what is there never reads as 0.

    Example:
        >>> percent(0.3231), percent(0.0), percent(0.00001)
        ('32.3 %', '0 %', '< 0.1 %')
    """
    if share == 0:
        return "0 %"
    return "< 0.1 %" if share < 0.001 else f"{100 * share:.1f} %"


def _share(split: SplitSummary, share: float) -> str:
    """Where no mask could be read, nothing is known: 0 % would be an answer."""
    return percent(share) if split.readable_masks else "-"


def _sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    if len(sizes) <= 2:
        return ", ".join(f"{width} x {height}" for height, width in sizes) or "-"
    heights, widths = zip(*sizes, strict=True)
    return f"{len(sizes)} sizes, {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)}"
