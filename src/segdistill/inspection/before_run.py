"""What `data check` would find wrong, told when a run begins: one sentence that stops it, or a warning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.reading.checking import SampleContent, read_contents
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.datasets.reading.files import FileDataset, Pair
from segdistill.datasets.reading.first import FirstSamples
from segdistill.errors import UserError
from segdistill.inspection.diagnosis import in_order, label_findings, pixel_findings, sample_findings, summary
from segdistill.inspection.duplicates import same_files
from segdistill.inspection.findings import Finding, SplitSummary
from segdistill.inspection.leakage import Names, names_by_pixels, refuse_leaks
from segdistill.inspection.samples import SampleFacts, bands_of, facts_of
from segdistill.inspection.tolerant import TOLERANT, open_tolerantly
from segdistill.recipe.data import Data

_OF_SCORES = ("same-image", "class-not-in-train")
"""Errors of the check that spoil what scores say, and no training."""


def check_before_run(
    data: Data, console: Console, *, unlabelled: bool = False, progress: bool = False
) -> dict[str, SplitSummary]:
    """Reads every image and mask of a run once, and says what would spoil it.

    The findings are those of `check_data`, but for copies of an image that were compressed or resized again: of images,
    only files that are equal byte by byte are reported.

    Args:
        data: the splits of the run.
        console: is told the warnings.
        unlabelled: whether training images may all be without labels, as where only a teacher speaks.
        progress: show a progress bar on the standard error stream.

    Returns:
        What "train" and "val" hold; "train" alone where they are one.

    Raises:
        UserError: the first sample that cannot be read or holds a label that is no class; unlabelled images that are
            also images of val or test; else the first of the findings that would spoil the training.
    """
    splits = {"train": data.train} if data.val is data.train else {"train": data.train, "val": data.val}
    findings: list[Finding] = []
    samples: dict[str, list[SampleFacts]] = {}
    images: dict[str, list[Path]] = {}
    scored: dict[str, Names] = {}
    for split, dataset in splits.items():
        reader = None
        if data.values.get("dataset") in TOLERANT:
            tolerant = open_tolerantly(data.values, split)
            reader = tolerant.reader
            findings += tolerant.findings
        pairs, contents = _pairs(dataset), list(_contents(dataset, progress))
        samples[split] = [
            facts_of(dataset.ids[index], None if pairs is None else pairs[index], content, reader, bands_of(dataset))
            for index, content in enumerate(contents)
        ]
        if split == "val":
            scored[split] = names_by_pixels(dataset, contents)
        findings += sample_findings(split, samples[split])
        seen = (("blank-image", sample.image) not in sample.remarks for sample in samples[split])
        images[split] = [image for (image, _), shows in zip(pairs or (), seen, strict=False) if shows]
    summaries = {split: summary(dataset, samples[split]) for split, dataset in splits.items()}
    labelled = {split: found for split, found in summaries.items() if splits[split].unlabelled_index is None}
    if data.train.unlabelled_index is None:
        findings += label_findings(data.train.classes, labelled, samples)
    if data.unlabelled is not None:
        # At the size of those that are scored, also where the teacher looks closer.
        unlabelled_images = data.unlabelled.at_size(data.val.resize)
        contents = list(_contents(unlabelled_images, progress))
        refuse_leaks(data, names_by_pixels(unlabelled_images, contents), scored, console, progress)
        samples["unlabelled"] = [
            facts_of(name, None, content, None) for name, content in zip(data.unlabelled.ids, contents, strict=True)
        ]
        findings += sample_findings("unlabelled", samples["unlabelled"])
    findings += pixel_findings(samples)
    findings += same_files(images)
    told = [finding for finding in in_order(findings) if finding.severity != "note"]
    for finding in told:
        if finding.severity == "error" and not _goes_on(finding, unlabelled):
            raise UserError(finding.sentence)
    for finding in told:
        console.out(f"warning: {finding.sentence}", highlight=False)
    return summaries


def _goes_on(finding: Finding, unlabelled: bool) -> bool:
    """Whether a training may go on although its check would call this an error."""
    return finding.kind in _OF_SCORES or (
        unlabelled and finding.kind == "nothing-labelled" and finding.split == "train"
    )


def _contents(dataset: SegmentationDataset, progress: bool) -> Iterator[SampleContent]:
    try:
        yield from read_contents(dataset, progress)
    except UserError as error:
        raise UserError(f"{error}; `segdistill data check` lists all that is wrong, and what to do") from error


def _pairs(dataset: SegmentationDataset) -> tuple[Pair, ...] | None:
    """The files of a data set's samples, if it is made of files."""
    while isinstance(dataset, DecodedCache | FirstSamples):
        dataset = dataset.dataset
    return dataset.pairs if isinstance(dataset, FileDataset) else None
