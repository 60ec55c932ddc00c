"""What is wrong with the labels and files of a data set, told from what reading every sample showed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.checking import count_all
from segdistill.inspection.findings import SEVERITIES, Finding, Severity, SplitSummary, ignored_share, percent
from segdistill.inspection.headers import PixelKind
from segdistill.inspection.samples import SampleFacts

MOSTLY_IGNORED = 0.5
# Of the edge pixels of CamVid's and IDD-Lite's masks 0.7 % lie between two other classes, at most 2.8 % in any one
# mask; resized by bilinear interpolation it is 15 % or more of a split.
SLOPED = 0.08

OTHER_RANGE = 20
"""Images of one unit differ less in their largest value, whatever they show: 8 bits against 16 are 257 times."""

# Of each remark about a sample: how bad it is, what it is, and what to do.
REMARKS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": (
        "error",
        "file{s} cannot be read",
        "copy or export them again from the source, or remove image and mask",
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
        "name every class in 'classes', or write the ignore label for pixels of no class",
    ),
    "lossy-mask": (
        "error",
        "mask{s} saved with lossy compression (JPEG, WebP), which changes class numbers along every edge",
        "save them again from the source as PNG; what was lost does not come back by converting them",
    ),
    "white-is-zero": (
        "warning",
        "mask{s} that show 0 as white: the numbers in the file count, so that white is class 0",
        "look at `segdistill data preview`; to make white class 1, set mask_values: {0: 1, 1: 0}",
    ),
    "nodata-class": (
        "note",
        "mask{s} whose no-data value is also the number of a class: these pixels count as that class",
        "nothing if these pixels are of that class; if they have no label, set that, for example mask_values: {0: 255}",
    ),
    "other-place": (
        "warning",
        "mask{s} with another place on the map than the image: pixels are paired by row and column, whatever the map",
        "look at `segdistill data preview`; bring both onto one grid, or ignore this if one of the places is wrong",
    ),
    "palette-order": (
        "error",
        "palette mask{s} whose numbers and colours stand for different classes",
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
        "remove them if they show nothing",
    ),
    "all-ignored": (
        "warning",
        "mask{s} in which every pixel is ignored, so that nothing is learnt from them",
        "remove image and mask, unless a distillation method that needs no labels is to use the image",
    ),
    "alpha": (
        "note",
        "image{s} with an alpha channel, whose transparent pixels are ignored",
        "nothing, unless these pixels are to be learnt: then save the images without the alpha channel",
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
    reasons: dict[str, list[str]] = {}
    for sample in samples:
        for kind, text in sample.remarks:
            texts.setdefault(kind, []).append(text)
            named = next((name for name in (sample.image, sample.mask) if text.startswith(name)), "")
            reasons.setdefault(kind, []).append(text[len(named) :].lstrip(" :") if named else "")
    findings = []
    for kind, (severity, what, advice) in REMARKS.items():
        if kind in texts:
            number = len(texts[kind])
            told = f"{number} {what.format(s='s' * (number != 1))}"
            findings.append(Finding(severity, kind, split, told, advice, tuple(texts[kind]), tuple(reasons[kind])))
    return findings


def label_findings(
    classes: Sequence[str], splits: Mapping[str, SplitSummary], samples: Mapping[str, Sequence[SampleFacts]]
) -> list[Finding]:
    """Findings about the labels of whole splits."""
    findings = []
    read = {split: summary for split, summary in splits.items() if summary.readable_masks}
    in_train = read.get("train")
    for split, summary in read.items():
        # Where train shows more, a split of one class is small, and not written in other numbers.
        shown = split == "train" or in_train is None or in_train.counts.two_values
        findings += _ignored_findings(split, classes, summary, samples[split], "error" if shown else "warning")
        edge_pixels = sum(sample.edges for sample in samples[split])
        sloped = sum(sample.slopes for sample in samples[split]) / max(1, edge_pixels)
        if sloped > SLOPED and len(classes) > 2:
            findings.append(
                Finding(
                    "warning",
                    "soft-labels",
                    split,
                    f"{percent(sloped)} of the pixels along edges hold a class number between those of their "
                    "neighbours: the masks seem to have been resized with interpolation, which creates wrong "
                    "class numbers",
                    "export the masks again, resizing by nearest neighbours only, unless some class is a thin seam "
                    "between two others",
                    tuple(sample.mask for sample in samples[split] if sample.slopes > SLOPED * max(1, sample.edges)),
                )
            )
    return findings + _absent_classes(classes, read)


def _ignored_findings(
    split: str,
    classes: Sequence[str],
    summary: SplitSummary,
    samples: Sequence[SampleFacts],
    two_values: Severity,
) -> list[Finding]:
    masks = tuple(sample.mask for sample in samples if sample.counts is not None)
    if summary.counts.two_values:
        what = f"the masks hold nothing but '{classes[0]}' and the ignore label"
        if two_values == "warning":
            return [Finding("warning", "two-values", split, what, "scores on this split measure only this class")]
        advice = f"if 255 stands for '{classes[1]}', set mask_values: {{255: 1}}; without it 255 means 'ignored'"
        return [Finding("error", "two-values", split, f"{what}, as if written as 0/255 instead of 0/1", advice, masks)]
    share = ignored_share(summary.counts)
    if share == 1:
        what = "every pixel of every mask is ignored"
        return [Finding("error", "nothing-labelled", split, what, "check the masks and the value of 'ignore'", masks)]
    if share > MOSTLY_IGNORED:
        what = f"{percent(share)} of the pixels are ignored"
        advice = "check that 'ignore' is the right value; only the other pixels are learnt from"
        return [Finding("warning", "mostly-ignored", split, what, advice)]
    return []


def pixel_findings(samples: Mapping[str, Sequence[SampleFacts]]) -> list[Finding]:
    """Findings about images whose numbers mean something else than those of other images."""
    kinds: dict[PixelKind, dict[str, list[str]]] = {}
    for split, found in samples.items():
        for sample in found:
            if sample.kind is not None:
                kinds.setdefault(sample.kind, {}).setdefault(split, []).append(sample.image)
    if len(kinds) > 1:
        told = "; ".join(
            f"{sum(map(len, by_split.values()))} of {kind} in {' and '.join(by_split)}"
            for kind, by_split in kinds.items()
        )
        apart = len({kind.dtype == "uint8" for kind in kinds}) > 1 or len({kind.scaling for kind in kinds}) > 1
        fewest = min(kinds.values(), key=lambda by_split: sum(map(len, by_split.values())))
        return [
            Finding(
                "error" if apart else "warning",
                "pixel-kind",
                None,
                f"images hold numbers of different kinds: {told}",
                "save all images in one type and unit, since a network that learnt from one sees noise in the other"
                if apart
                else "make sure that all of them are in one unit",
                tuple(image for images in fewest.values() for image in images),
            )
        ]
    return _range_findings(
        {split: [s.largest for s in found if s.largest is not None] for split, found in samples.items()}
    )


def _range_findings(largest: Mapping[str, Sequence[float]]) -> list[Finding]:
    tops = {split: max(values) for split, values in largest.items() if values and max(values) > 0}
    if "train" not in tops:
        return []
    return [
        Finding(
            "warning",
            "value-range",
            split,
            f"the largest value in any image is {top:g}, and in train {tops['train']:g}",
            "make sure that all images are in one unit",
        )
        for split, top in tops.items()
        if max(top, tops["train"]) > OTHER_RANGE * min(top, tops["train"])
    ]


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
