"""Videos: predicted frame by frame, written as videos of class indices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from segdistill.data.ahead import ahead
from segdistill.datasets.reading.image_folders import VIDEO_OVERLAY
from segdistill.datasets.reading.videos import Video
from segdistill.errors import UserError
from segdistill.prediction.images_in import Item, Picture
from segdistill.prediction.job import Job, Wanted
from segdistill.prediction.video import KEY_TAG, VideoWriter, made_from
from segdistill.reporting.picture import overlaid

__all__ = ["companions", "made_from", "predict_all"]


def predict_all(job: Job, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
    """Predicts one video after another, each given before it is begun."""
    return one_by_one(_predict, job, bar, items, together)


def one_by_one(
    predict: Callable[[Job, Progress, Item, Video], None],
    job: Job,
    bar: Progress,
    items: Sequence[Item],
    together: int,
) -> Iterator[Item]:
    """Gives one video after another, each before ``predict`` is called for it; a video that fails stops no other."""
    for item in items:
        yield item
        try:
            if not job.takes_rgb:
                raise UserError(f"{item.path} is a video, whose frames are RGB; the model takes other bands")
            with Video(item.path) as frames:
                predict(job, bar, item, frames)
        except UserError as error:
            job.failed(error, together)


def companions(item: Item, wanted: Wanted) -> list[Path]:
    """The files that go with a label map."""
    return [item.beside(VIDEO_OVERLAY)] if wanted.overlay else []


def _predict(job: Job, bar: Progress, item: Item, frames: Video) -> None:
    tags = {KEY_TAG: job.keys[item.target], "CLASSES": ", ".join(job.predictor.classes)}
    task = bar.add_task("frames", total=frames.frames or None)
    try:
        with ExitStack() as files, ThreadPoolExecutor(1, "frames") as writer:
            # Entered first, the label map gets its name last: it stands for all.
            labelled = files.enter_context(VideoWriter(item.target, frames, tags))
            shown = None
            if job.wanted.overlay:
                shown = files.enter_context(VideoWriter(item.beside(VIDEO_OVERLAY), frames, tags))

            def made() -> Iterator[tuple[Picture, np.ndarray, int]]:
                for pixels, ticks in frames:
                    image = Picture(torch.from_numpy(pixels).permute(2, 0, 1))
                    yield image, job.label_map(image).labels, ticks

            def write(frame: tuple[Picture, np.ndarray, int]) -> None:
                image, labels, ticks = frame
                labelled.write(labels, ticks)
                if shown is not None:
                    shown.write(
                        np.asarray(overlaid(image.pixels, torch.from_numpy(labels), job.predictor.palette)), ticks
                    )

            for _ in ahead(writer, write, made()):
                bar.update(task, advance=1)
    finally:
        bar.remove_task(task)
