"""Videos as images: their frames in order, or single ones of them."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segdistill.datasets.base import Window
from segdistill.datasets.reading.images import ImageFile
from segdistill.datasets.reading.orientation import of_display_matrix, turned
from segdistill.errors import UserError, missing_package

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
"""Files that are read frame by frame, and become videos of class indices."""


def require_av() -> Any:
    """The library that reads and writes videos.

    Raises:
        UserError: it is not installed.
    """
    try:
        import av  # an extra
    except ImportError as error:
        raise missing_package("a video", "av", "video") from error
    return av


class Video:
    """A video file, to be used in a ``with`` statement.

    Args:
        path: the file.

    Attributes:
        size: (height, width) of a frame in pixels, as it is shown.
        frames: how many there are, by the file's own account; 0 where it does not say.
        rate: frames per second.
        time_base: seconds of one tick of the frames' times.

    Raises:
        UserError: no such file, no video in it, or a broken one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._av = require_av()
        try:
            self._container = self._av.open(str(path))
        except (OSError, ValueError, self._av.FFmpegError) as error:
            raise UserError(f"{path} cannot be read as a video: {reason_of(error)}") from error
        if not self._container.streams.video:
            self._container.close()
            raise UserError(f"{path} holds no video")
        stream = self._container.streams.video[0]
        stream.thread_type = "AUTO"
        self._stream = stream
        self.rate = Fraction(stream.average_rate or 25)
        self.time_base = Fraction(stream.time_base or 1 / self.rate)
        self._decoded = self._decode()
        try:
            first = next(self._decoded, None)
        except UserError:
            self._container.close()
            raise
        if first is None:
            self._container.close()
            raise UserError(f"{path} holds no frame")
        self._first = first
        self.size = first[0].shape[:2]
        duration = 0.0 if self._container.duration is None else self._container.duration / self._av.time_base
        self.frames = int(stream.frames) or round(duration * self.rate)

    def __enter__(self) -> Video:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """Each frame, RGB uint8 (H, W, 3), and its time in ticks.

        Raises:
            UserError: where the file breaks off or a frame is of another size than the first.
        """
        yield self._first
        for count, (pixels, time) in enumerate(self._decoded, 1):
            if pixels.shape[:2] != self.size:
                found, first = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, self.size))
                raise UserError(f"{self.path}: frame {count} has {found} pixels, and the first had {first}")
            yield pixels, time

    def _decode(self) -> Iterator[tuple[np.ndarray, int]]:
        count = 0
        try:
            for frame in self._container.decode(self._stream):
                yield upright(frame), count if frame.pts is None else frame.pts
                count += 1
        except self._av.FFmpegError as error:
            raise UserError(f"{self.path} is broken after {count} frames: {reason_of(error)}") from error


def upright(frame: Any) -> np.ndarray:
    """The pixels of a frame as it is shown, RGB uint8 (H, W, 3)."""
    pixels = turned(frame.to_ndarray(format="rgb24").transpose(2, 0, 1), _orientation(frame))
    return np.ascontiguousarray(pixels.transpose(1, 2, 0))


def _orientation(frame: Any) -> int:
    """As in EXIF: a telephone that was held upright says so in the display matrix."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return of_display_matrix(struct.unpack("=9i", bytes(data)))
    return 1


def reason_of(error: Exception) -> str:
    """What is wrong, without the number and the path that PyAV adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


@dataclass(frozen=True)
class FrameAt:
    """Where a frame stands in its video.

    Attributes:
        number: of the frame, from 0, in the order in which frames are shown.
        time: in ticks; None where the file gives its frames no times, so that they are counted.
        size: (height, width) in pixels, as it is shown.
    """

    number: int
    time: int | None
    size: tuple[int, int]


def frames_of(path: Path, step: int) -> list[FrameAt]:
    """Every ``step``-th frame of a video, from the first on; no frame but the first is decoded.

    Raises:
        UserError: see `Video`.
    """
    with Video(path) as video:
        height, width = video.size
    av = require_av()
    try:
        with av.open(str(path)) as container:
            packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
            times = [packet.pts for packet in packets if not packet.is_discard]
    except (OSError, ValueError, av.FFmpegError) as error:
        raise UserError(f"{path} cannot be read as a video: {reason_of(error)}") from error
    # Frames are stored in the order in which they are decoded, which is another.
    shown = [None] * len(times) if None in times else sorted(times)
    return [FrameAt(number, shown[number], (height, width)) for number in range(0, len(shown), step)]


class VideoFrame(ImageFile):
    """A frame of a video, decoded at the first look."""

    channels = 3
    dtype = torch.uint8

    def __init__(self, path: Path, at: FrameAt) -> None:
        self.path = path
        self._at = at

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self._at.size

    def read(self, window: Window) -> tuple[Tensor, None]:
        """See `ImageFile.read`."""
        return window.cut(self._decoded).contiguous(), None

    @cached_property
    def _decoded(self) -> Tensor:
        av = require_av()
        try:
            frame = _after_seek(self.path, self._at) or _from_start(self.path, self._at)
        except (OSError, ValueError, av.FFmpegError) as error:
            raise UserError(f"{self.path} is broken at frame {self._at.number}: {reason_of(error)}") from error
        if frame is None:
            raise UserError(f"{self.path} ends before its frame {self._at.number}; the file is broken")
        pixels = upright(frame)
        if pixels.shape[:2] != self._at.size:
            found, first = (f"{shape[1]} x {shape[0]}" for shape in (pixels.shape, self._at.size))
            raise UserError(f"{self.path}: frame {self._at.number} has {found} pixels, and the first had {first}")
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _after_seek(path: Path, at: FrameAt) -> Any:
    """The frame, decoded from the last key frame before it; None where that does not work."""
    av = require_av()
    if at.time is None:
        return None
    with contextlib.suppress(av.FFmpegError), av.open(str(path)) as container:
        stream = container.streams.video[0]
        container.seek(at.time, stream=stream)
        for frame in container.decode(stream):
            # A seek may end behind the frame, or at a frame that cannot be decoded without those before it.
            if frame.pts is None or frame.pts > at.time or frame.is_corrupt:
                return None
            if frame.pts == at.time:
                return frame
    return None


def _from_start(path: Path, at: FrameAt) -> Any:
    """The frame, decoded with all those before it; None where the video ends before it."""
    with require_av().open(str(path)) as container:
        for number, frame in enumerate(container.decode(container.streams.video[0])):
            if (number == at.number) if at.time is None else (frame.pts == at.time):
                return frame
    return None
