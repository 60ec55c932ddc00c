"""`segdistill.check_data`: everything about a data set that would spoil a run, found before it."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from segdistill.data.augmentation import Augmentation
from segdistill.datasets import DATASETS, LabelCounts, SegmentationDataset
from segdistill.errors import UserError, unknown_name
from segdistill.files import write_json
from segdistill.inspection.duplicates import same_images
from segdistill.inspection.findings import (
    SEVERITIES,
    DataReport,
    Finding,
    Severity,
    SplitSummary,
    ignored_share,
    percent,
)
from segdistill.inspection.mask_values import diagnose
from segdistill.inspection.pairing import (
    TolerantCamVid,
    TolerantFiles,
    TolerantFolder,
    camvid_splits,
    folder_splits,
    unused_files,
)
from segdistill.inspection.samples import LABELS, SampleFacts, read_samples
from segdistill.recipe import build_split, construct, plain

TOLERANT: dict[str, type[TolerantFiles]] = {"folder": TolerantFolder, "camvid": TolerantCamVid}
"""The data sets that open although files are missing; others are built as for a run."""

MOSTLY_IGNORED = 0.5
# Of the edge pixels of CamVid's and IDD-Lite's masks 0.7 % lie between two other classes, at most 2.8 % in any one
# mask; resized by bilinear interpolation it is 15 % or more of a split.
SLOPED = 0.08

# Of each remark about a sample: how bad it is, what it is, and what to do.
_REMARKS: dict[str, tuple[Severity, str, str]] = {
    "unreadable": (
        "error",
        "file{s} cannot be read",
        "copy or export them again from the source, or take image and mask away",
    ),
    "deep-image": (
        "error",
        "image{s} with more than 8 bits per channel",
        "scale them to 0..255 and save them as 8-bit RGB, all by the same factor",
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
    "palette-order": (
        "error",
        "palette mask{s} whose numbers and colours say different classes",
        "save them in RGB, e.g. Image.open(file).convert('RGB').save(file), so that the colours count",
    ),
    "turned": (
        "warning",
        "image{s} with an EXIF rotation, which is not applied on reading",
        "look at `segdistill data preview`: if mask and image are turned against each other, save them upright",
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
        "image{s} with an alpha channel, which is dropped",
        "nothing, unless transparent parts hide colours that shall not be seen",
    ),
    "other-colors": (
        "note",
        "image{s} in another colour space, converted to RGB on reading",
        "convert them yourself if the colours matter, with the right colour profile",
    ),
}


def check_data(
    *,
    data: dict[str, Any],
    json: str | Path | None = None,
    names: int = 5,
    quiet: bool = False,
) -> DataReport:
    """Looks at every file of a data set, and tells all that would spoil a run and what to do about it.

    Args:
        data: the data set and its keywords, e.g. {dataset: folder, root: my/data, classes: [road, roof, tree]}.
        json: JSON file for the report, with the names of all files.
        names: most files to print for each finding.
        quiet: print nothing.

    Returns:
        Splits with their class shares, and findings; ``ok`` unless one of them is an error.

    Raises:
        UserError: for an unknown data set, an unknown or wrong-typed keyword, or a root that does not exist; what is
            wrong inside of it is a finding.
    """
    if names < 1:
        raise UserError(f"names is {names}, expected at least 1")
    check_keys(data)
    console = Console(quiet=quiet)
    datasets, findings = _open(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, of damaged files: each becomes a finding
        samples = {
            split: read_samples(dataset, progress=not quiet and console.is_terminal)
            for split, dataset in datasets.items()
        }
    seen = _seen(samples, datasets)
    for split, dataset in datasets.items():
        findings += _sample_findings(split, samples[split])
        refused = [sample.refused for sample in samples[split] if sample.refused is not None]
        if isinstance(dataset, TolerantFiles):
            findings += diagnose(split, refused, dataset.reader, dataset.classes, seen)
    summaries = {split: _summary(dataset, samples[split]) for split, dataset in datasets.items()}
    classes = next((dataset.classes for dataset in datasets.values()), ())
    findings += _label_findings(classes, summaries, samples)
    findings += same_images(
        {
            split: [(sample.image, sample.mark) for sample in found if sample.mark is not None]
            for split, found in samples.items()
        }
    )
    report = DataReport(plain(data, "data"), classes, summaries, _sorted(findings))
    report.show(console, names)
    if json is not None:
        write_json(Path(json), report.as_dict())
    return report


def check_keys(data: Mapping[str, Any]) -> None:
    """Refuses what no key of a recipe's ``data`` is called.

    Raises:
        UserError: for a data set or a key that does not exist.
    """
    name = data.get("dataset")
    if name is None:
        raise UserError(f"data: the key 'dataset' is missing; expected one of {', '.join(sorted(DATASETS))}")
    if not isinstance(name, str) or name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    known = {
        "dataset",
        "keep",
        *inspect.signature(DATASETS[name]).parameters,
        *inspect.signature(Augmentation).parameters,
    }
    known -= {"split", "ignore_index"}  # chosen by the commands, and by the data set
    for key in data:
        if key not in known:
            raise unknown_name("key in data:", key, known)


def _open(data: Mapping[str, Any]) -> tuple[dict[str, SegmentationDataset], list[Finding]]:
    """Every split that can be opened, and what is wrong with its files."""
    kind = TOLERANT.get(data["dataset"])
    datasets: dict[str, SegmentationDataset] = {}
    findings: list[Finding] = []
    if kind is None:
        for split in ("train", "val", "test"):
            try:
                # At full size, and without writing converted files.
                whole = {key: value for key, value in data.items() if key not in ("resize", "cache")}
                datasets[split] = build_split(whole, split)
            except UserError as error:
                findings.append(_unopened(split, error))
        return datasets, findings
    reading = {key: value for key, value in data.items() if key in inspect.signature(kind).parameters}
    # The first split shows wrong keywords before anything is looked at.
    construct(kind, reading | {"split": "train"}, "data")
    root = Path(data["root"])
    for split in folder_splits(root) if kind is TolerantFolder else camvid_splits(root):
        dataset = construct(kind, reading | {"split": split}, "data")
        datasets[split] = dataset
        findings += dataset.findings
        if all(finding.severity != "error" for finding in dataset.findings):
            try:
                build_split(data, split)
            except UserError as error:  # what a run would say has the last word
                findings.append(_unopened(split, error))
    if kind is TolerantFolder:
        findings += unused_files(root, datasets)
    return datasets, findings


def _unopened(split: str, error: UserError) -> Finding:
    # A run needs train and val, and evaluation asks for test when it is there.
    severity: Severity = "note" if split not in ("train", "val") else "error"
    return Finding(severity, "unopened-split", split, str(error), "a run with this split would stop with this sentence")


def _seen(samples: Mapping[str, Sequence[SampleFacts]], datasets: Mapping[str, SegmentationDataset]) -> frozenset[int]:
    """Every index in any index mask, as it stands in the files."""
    seen: set[int] = set()
    for split, found in samples.items():
        dataset = datasets[split]
        ignore = dataset.reader.ignore if isinstance(dataset, TolerantFiles) else dataset.ignore_index
        for sample in found:
            if sample.refused is not None and sample.refused.form == "index":
                seen |= set(sample.refused.values)
            if sample.counts is not None:
                labels = set(np.flatnonzero(sample.counts).tolist())
                seen |= {ignore if label == dataset.ignore_index else label for label in labels}
    return frozenset(seen)


def _summary(dataset: SegmentationDataset, samples: Sequence[SampleFacts]) -> SplitSummary:
    counts = [sample.counts for sample in samples if sample.counts is not None]
    total = np.sum(counts, axis=0) if counts else np.zeros(LABELS, dtype=np.int64)
    pixels = torch.from_numpy(total[: len(dataset.classes)].copy())
    return SplitSummary(
        samples=len(samples),
        readable_masks=len(counts),
        sizes=dict(Counter(sample.size for sample in samples if sample.size is not None).most_common()),
        counts=LabelCounts(pixels, int(total[dataset.ignore_index])),
    )


def _sample_findings(split: str, samples: Sequence[SampleFacts]) -> list[Finding]:
    texts: dict[str, list[str]] = {}
    for sample in samples:
        for kind, text in sample.remarks:
            texts.setdefault(kind, []).append(text)
    findings = []
    for kind, (severity, what, advice) in _REMARKS.items():
        if kind in texts:
            number = len(texts[kind])
            told = f"{number} {what.format(s='s' * (number != 1))}"
            findings.append(Finding(severity, kind, split, told, advice, tuple(texts[kind])))
    return findings


def _label_findings(
    classes: Sequence[str], splits: Mapping[str, SplitSummary], samples: Mapping[str, Sequence[SampleFacts]]
) -> list[Finding]:
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
    pixels, ignored = summary.counts.pixels.tolist(), summary.counts.ignored
    masks = tuple(sample.mask for sample in samples if sample.counts is not None)
    if ignored and pixels[0] and not any(pixels[1:]):
        what = f"the masks hold nothing but '{classes[0]}' and the ignore label, as masks written as 0/255 do"
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


def _sorted(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first; what holds for several splits, such as files they share, is told once."""
    once: dict[Finding, Finding] = {}
    for finding in findings:
        key = replace(finding, split=None)
        once[key] = key if key in once else finding
    return tuple(sorted(once.values(), key=lambda finding: SEVERITIES.index(finding.severity)))
