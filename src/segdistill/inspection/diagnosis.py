"""What is wrong with the labels and files of a data set, told from what reading every sample showed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.checking import count_all
from segdistill.inspection.findings import SEVERITIES, Finding, Severity, SplitSummary, ignored_share, percent
from segdistill.inspection.samples import SampleFacts

MOSTLY_IGNORED = 0.5
# Of the edge pixels of CamVid's and IDD-Lite's masks 0.7 % lie between two other classes, at most 2.8 % in any one
# mask; resized by bilinear interpolation it is 15 % or more of a split.
SLOPED = 0.08

# Of each remark about a sample: how bad it is, what it is, and what to do.
REMARKS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": (
        "error",
        "file{s} cannot be read",
        "copy or export them again from the source, or take image and mask away",
    ),
    "deep-image": (
        "error",
        "image{s} with more than 8 bits per channel",
        "name the bands to read as they are, e.g. bands: [1], or scale all images to 0..255 by one factor and save "
        "them as 8-bit RGB",
    ),
    "other-bands": (
        "error",
        "image{s} with other bands than red, green and blue of 8 bits",
        "name the bands to read, the first being 1, e.g. bands: [1, 2, 3, 4]",
    ),
    "other-size": (
        "error",
        "mask{s} of another size than the image",
        "export mask and image at one size; resize masks by nearest neighbours only",
    ),
    "outside": (
        "error",
        "mask{s} with values that are no class",
        "name every class in 'classes', or write the ignore label for what is none",
    ),
    "lossy-mask": (
        "error",
        "mask{s} saved with lossy compression (JPEG, WebP), which changes class numbers along every edge",
        "save them again from the source as PNG; what was lost does not come back by converting them",
    ),
    "white-is-zero": (
        "warning",
        "mask{s} that show 0 as white: the numbers in the file count, so that white is class 0",
        "look at `segdistill data preview`; to take white as class 1, say mask_values: {0: 1, 1: 0}",
    ),
    "palette-order": (
        "error",
        "palette mask{s} whose numbers and colours say different classes",
        "save them in RGB, e.g. Image.open(file).convert('RGB').save(file), so that the colours count",
    ),
    "turned": (
        "warning",
        "image{s} turned on reading by the EXIF orientation, which the size of the mask can neither confirm nor refute",
        "look at `segdistill data preview`: if mask and image are turned against each other, save both upright",
    ),
    "blank-image": (
        "warning",
        "image{s} all of one colour",
        "take them away if nothing is to be seen on them",
    ),
    "all-ignored": (
        "warning",
        "mask{s} ignored from edge to edge, from which nothing is learnt",
        "take image and mask away, unless methods without labels shall see them",
    ),
    "alpha": (
        "note",
        "image{s} with an alpha channel, whose transparent pixels are ignored",
        "nothing, unless something is to be learnt there: then save the images without it",
    ),
    "no-alpha": (
        "note",
        "image{s} with a band that is called alpha but hides no pixels, and is not read",
        "name the bands to read if it is data, such as near infrared, e.g. bands: [1, 2, 3, 4]",
    ),
    "other-colors": (
        "note",
        "image{s} in another colour space, converted to RGB on reading",
        "convert them yourself if the colours matter, with the right colour profile",
    ),
}


def summary(dataset: SegmentationDataset, samples: Sequence[SampleFacts]) -> SplitSummary:
    """What a split holds, as far as its masks could be read."""
    counts = [sample.counts for sample in samples if sample.counts is not None]
    return SplitSummary(
        samples=len(samples),
        readable_masks=len(counts),
        sizes=dict(Counter(sample.size for sample in samples if sample.size is not None).most_common()),
        counts=count_all(dataset, counts),
    )


def sample_findings(split: str, samples: Sequence[SampleFacts]) -> list[Finding]:
    """Findings about single files, those of one kind together."""
    texts: dict[str, list[str]] = {}
    for sample in samples:
        for kind, text in sample.remarks:
            texts.setdefault(kind, []).append(text)
    findings = []
    for kind, (severity, what, advice) in REMARKS.items():
        if kind in texts:
            number = len(texts[kind])
            told = f"{number} {what.format(s='s' * (number != 1))}"
            findings.append(Finding(severity, kind, split, told, advice, tuple(texts[kind])))
    return findings


def label_findings(
    classes: Sequence[str], splits: Mapping[str, SplitSummary], samples: Mapping[str, Sequence[SampleFacts]]
) -> list[Finding]:
    """Findings about the labels of whole splits."""
    findings = []
    read = {split: summary for split, summary in splits.items() if summary.readable_masks}
    for split, summary in read.items():
        findings += _ignored_findings(split, classes, summary, samples[split])
        edge_pixels = sum(sample.edges for sample in samples[split])
        sloped = sum(sample.slopes for sample in samples[split]) / max(1, edge_pixels)
        if sloped > SLOPED and len(classes) > 2:
            findings.append(
                Finding(
                    "warning",
                    "soft-labels",
                    split,
                    f"{percent(sloped)} of the pixels along edges hold a class number between those of their "
                    "neighbours: the masks seem to have been resized with interpolation, which makes classes up",
                    "export the masks again, resizing by nearest neighbours only, unless some class is a thin seam "
                    "between two others",
                    tuple(sample.mask for sample in samples[split] if sample.slopes > SLOPED * max(1, sample.edges)),
                )
            )
    return findings + _absent_classes(classes, read)


def _ignored_findings(
    split: str, classes: Sequence[str], summary: SplitSummary, samples: Sequence[SampleFacts]
) -> list[Finding]:
    masks = tuple(sample.mask for sample in samples if sample.counts is not None)
    if summary.counts.two_values:
        what = f"the masks hold nothing but '{classes[0]}' and the ignore label, as if written as 0/255 instead of 0/1"
        advice = (
            f"save (mask > 0).astype('uint8'), so that 0 is '{classes[0]}' and 1 is '{classes[1]}'; 255 means 'ignored'"
        )
        return [Finding("error", "two-values", split, what, advice, masks)]
    share = ignored_share(summary.counts)
    if share == 1:
        what = "every pixel of every mask is ignored"
        return [Finding("error", "nothing-labelled", split, what, "check the masks and the value of 'ignore'", masks)]
    if share > MOSTLY_IGNORED:
        what = f"{percent(share)} of the pixels are ignored"
        advice = "check that 'ignore' is the right value; labels are learnt from the other pixels alone"
        return [Finding("warning", "mostly-ignored", split, what, advice)]
    return []


def _absent_classes(classes: Sequence[str], splits: Mapping[str, SplitSummary]) -> list[Finding]:
    present = {split: set(np.flatnonzero(summary.counts.pixels).tolist()) for split, summary in splits.items()}
    if not any(present.values()):
        return []
    anywhere = set[int]().union(*present.values())
    nowhere = [label for label in range(len(classes)) if label not in anywhere]
    findings = []
    if nowhere:
        advice = "check the order and number of 'classes'; a class that never occurs is never learnt nor scored"
        if nowhere[0] == 0:
            advice = "if the masks count classes from 1, subtract 1 from every class value; else " + advice
        told = f"{_names(classes, nowhere)} in no mask that can be read"
        findings.append(Finding("warning", "class-nowhere", None, told, advice))
    for split, severity, advice in (
        ("train", "error", "move images that show them into train: what is not seen in training cannot be learnt"),
        ("val", "warning", "move images that show them into val: its scores leave these classes out"),
    ):
        absent = sorted(anywhere - present.get(split, anywhere))
        if absent:
            told = f"{_names(classes, absent)} in no mask of {split}, but in those of another split"
            level: Severity = "error" if severity == "error" else "warning"
            findings.append(Finding(level, f"class-not-in-{split}", split, told, advice))
    return findings


def _names(classes: Sequence[str], labels: Sequence[int]) -> str:
    named = ", ".join(f"{label} '{classes[label]}'" for label in labels)
    return f"the class {named} occurs" if len(labels) == 1 else f"the classes {named} occur"


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first; what holds for several splits, such as files they share, is told once."""
    once: dict[Finding, Finding] = {}
    for finding in findings:
        key = replace(finding, split=None)
        once[key] = key if key in once else finding
    return tuple(sorted(once.values(), key=lambda finding: SEVERITIES.index(finding.severity)))
