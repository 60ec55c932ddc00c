"""`segdistill.check_data`: everything about a data set that would spoil a run, found before it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from segdistill.datasets import SegmentationDataset
from segdistill.errors import UserError
from segdistill.files import write_json
from segdistill.inspection.diagnosis import in_order, label_findings, pixel_findings, sample_findings, summary
from segdistill.inspection.duplicates import Fingerprint, same_images
from segdistill.inspection.findings import DataReport, Finding, Severity
from segdistill.inspection.mask_values import diagnose
from segdistill.inspection.options import CheckOptions
from segdistill.inspection.pairing import camvid_splits, folder_splits, unused_files
from segdistill.inspection.samples import SampleFacts, read_samples
from segdistill.inspection.tolerant import TOLERANT, TolerantFiles, TolerantFolder, open_tolerantly
from segdistill.recipe.data import build_split
from segdistill.recipe.keywords import takes_fields
from segdistill.recipe.unlabelled import build_unlabelled
from segdistill.recipe.values import plain


@takes_fields
def check_data(options: CheckOptions) -> DataReport:
    """Read every file of a data set; list what would spoil a run, and what to do about it.

    Returns:
        Splits with their class shares, and findings; ``ok`` unless one of them is an error.

    Raises:
        UserError: for an unknown data set, an unknown or wrong-typed keyword, or a root that does not exist; what is
            wrong inside of it is a finding.
    """
    data = options.data
    console = Console(quiet=options.quiet)
    datasets, findings = _open(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PIL's, of damaged files: each becomes a finding
        samples = {split: read_samples(dataset, progress=not options.quiet) for split, dataset in datasets.items()}
    seen = _seen(samples, datasets)
    for split, dataset in datasets.items():
        findings += sample_findings(split, samples[split])
        refused = [sample.refused for sample in samples[split] if sample.refused is not None]
        if isinstance(dataset, TolerantFiles):
            findings += diagnose(split, refused, dataset.reader, dataset.classes, seen)
    summaries = {split: summary(dataset, samples[split]) for split, dataset in datasets.items()}
    classes = next((dataset.classes for dataset in datasets.values()), ())
    findings += label_findings(classes, summaries, samples)
    marks = {split: _marks(found) for split, found in samples.items()}
    findings += same_images(marks)
    if (unlabelled := _unlabelled(data, datasets, findings)) is not None:
        samples["unlabelled"] = read_samples(unlabelled, progress=not options.quiet)
        findings += sample_findings("unlabelled", samples["unlabelled"])
        # A student may well see its training images once more, without their labels.
        scored = {split: marks[split] for split in marks if split != "train"}
        findings += [
            finding
            for finding in same_images(scored | {"unlabelled": _marks(samples["unlabelled"])})
            if finding.split == "unlabelled" or (finding.split is None and "unlabelled" in finding.what)
        ]
    findings += pixel_findings(samples)
    report = DataReport(plain(data, "data"), classes, summaries, in_order(findings))
    report.show(console, options.names)
    if options.output is not None:
        write_json(Path(options.output), report.as_dict())
    return report


def _marks(samples: Sequence[SampleFacts]) -> list[tuple[str, Fingerprint]]:
    return [(sample.image, sample.mark) for sample in samples if sample.mark is not None]


def _unlabelled(
    data: Mapping[str, Any], datasets: Mapping[str, SegmentationDataset], findings: list[Finding]
) -> SegmentationDataset | None:
    """The unlabelled images, if there are some and they can be opened; else ``findings`` get what is wrong."""
    train = datasets.get("train")
    if train is None or not len(train):
        return None
    try:
        return build_unlabelled({key: value for key, value in data.items() if key != "resize"}, train)
    except UserError as error:
        findings.append(_unopened("unlabelled", error))
        return None


def _open(data: Mapping[str, Any]) -> tuple[dict[str, SegmentationDataset], list[Finding]]:
    """Every split that can be opened, and what is wrong with its files."""
    kind = TOLERANT.get(data.get("dataset", ""))
    datasets: dict[str, SegmentationDataset] = {}
    findings: list[Finding] = []
    if kind is None:
        for split in ("train", "val", "test"):
            try:
                # At full size, and without writing converted files.
                whole = {key: value for key, value in data.items() if key not in ("resize", "tiled_copy")}
                datasets[split] = build_split(whole, split)
            except UserError as error:
                findings.append(_unopened(split, error))
        return datasets, findings
    open_tolerantly(data, "train")  # which shows wrong keywords before anything is looked at
    root = Path(data["root"])
    for split in folder_splits(root) if kind is TolerantFolder else camvid_splits(root):
        dataset = open_tolerantly(data, split)
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
    severity: Severity = "note" if split not in ("train", "val", "unlabelled") else "error"
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
