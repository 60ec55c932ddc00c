"""Frames of videos: every so many of them becomes a picture with a label map of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.progress import Progress

from segdistill.data.ahead import ahead
from segdistill.datasets.reading.videos import Video
from segdistill.files import write_atomically, write_json
from segdistill.prediction import pictures
from segdistill.prediction.images_in import Item, Picture
from segdistill.prediction.job import Job, LabelMap, Wanted
from segdistill.prediction.videos import one_by_one

Frame = tuple[Item, np.ndarray, LabelMap]
"""The frame's label map to be, its pixels (H, W, 3), its labels."""


def predict_all(job: Job, bar: Progress, items: Sequence[Item], together: int) -> Iterator[Item]:
    """Predicts one video after another, each given before it is begun."""
    return one_by_one(_predict, job, bar, items, together)


def companions(item: Item, wanted: Wanted) -> list[Path]:
    """The files that go with a finished video: none."""
    return []


def made_from(path: Path) -> str | None:
    """The key in the list of a finished video's frames; None for any other file."""
    try:
        key = json.loads(path.read_text())["key"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return key if isinstance(key, str) else None


def frames_of(path: Path) -> list[Path]:
    """The label maps of a finished video, whose list is ``path``."""
    return [path.with_name(f"{name}.png") for name in json.loads(path.read_text())["frames"]]


def name_of(item: Item) -> str:
    """What the names of a video's frames begin with; a number follows. The folders of the video are a part of it."""
    return item.target.stem.removeprefix(".")


def image_of(mask: Path) -> Path:
    """Where the picture of a label map lies: in the folder ``images`` beside that of the label maps."""
    return mask.parent.parent / "images" / mask.name


def _predict(job: Job, bar: Progress, item: Item, frames: Video) -> None:
    task = bar.add_task("frames", total=frames.frames or None)
    names: list[str] = []

    def made() -> Iterator[Frame]:
        for number, (pixels, _) in enumerate(frames):
            bar.update(task, advance=1)
            if number % job.wanted.frame_step:
                continue
            names.append(f"{name_of(item)}-{number:06d}")
            frame = Item(item.path, item.target.with_name(f"{names[-1]}.png"))
            if not _is_done(job, item, frame):
                yield frame, pixels, job.label_map(Picture(torch.from_numpy(pixels).permute(2, 0, 1)))

    def write(frame: Frame) -> None:
        one, pixels, found = frame
        picture = Image.fromarray(pixels)
        write_atomically(image_of(one.target), lambda file: picture.save(file, "PNG"))
        # The label map last: it stands for both.
        pictures.write(job, one, Picture(torch.from_numpy(pixels).permute(2, 0, 1)), found)

    try:
        with ThreadPoolExecutor(1, "frames") as writer:
            for _ in ahead(writer, write, made()):
                pass
        write_json(item.target, {"key": job.keys[item.target], "frames": names})
    finally:
        bar.remove_task(task)


def _is_done(job: Job, item: Item, frame: Item) -> bool:
    """Whether a frame's picture and label map are there, made as they would be made now."""
    key = job.keys[frame.target] = job.keys[item.target]
    if pictures.made_from(frame.target) == key:
        return image_of(frame.target).exists()
    if frame.target.exists():
        job.may_replace(frame.target, item.path)
    return False
