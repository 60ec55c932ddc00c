"""Videos: frames in, label maps and pictures of them out, frame by frame."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from segdistill.datasets.reading.orientation import of_display_matrix, turned
from segdistill.errors import UserError, missing_package
from segdistill.files import UNFINISHED, permissions

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg")
"""Files that are read frame by frame, and become videos of class indices."""

KEY_TAG = "SEGDISTILL_KEY"
"""The tag in a finished video that says what it was made from."""


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
            raise UserError(f"{path} cannot be read as a video: {_reason(error)}") from error
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
                pixels = frame.to_ndarray(format="rgb24")
                upright = turned(pixels.transpose(2, 0, 1), _orientation(frame)).transpose(1, 2, 0)
                yield np.ascontiguousarray(upright), count if frame.pts is None else frame.pts
                count += 1
        except self._av.FFmpegError as error:
            raise UserError(f"{self.path} is broken after {count} frames: {_reason(error)}") from error


class VideoWriter:
    """A video in the making, under its final name only once it is whole.

    Args:
        path: ``.mkv`` for class indices, grey levels kept exactly (FFV1); ``.mp4`` for pictures (H.264).
        like: the video that this one is made of: its size, rate and times.
        tags: about the video, by name.

    Raises:
        UserError: it cannot be written there, or FFmpeg lacks the codec.
    """

    def __init__(self, path: Path, like: Video, tags: dict[str, str]) -> None:
        self.path = path
        self._unfinished = path.with_name(f".{path.name}{UNFINISHED}")
        self._is_exact = path.suffix == ".mkv"
        self._av = require_av()
        try:
            with ExitStack() as undo:
                self._open(like, tags, undo)
                undo.pop_all()
        except (OSError, ValueError, self._av.FFmpegError) as error:
            raise UserError(f"cannot write {path}: {_reason(error)}") from error

    def _open(self, like: Video, tags: dict[str, str], undo: ExitStack) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # The path is told in Python's own words where it cannot be written to, not in FFmpeg's.
        self._unfinished.write_bytes(b"")
        undo.callback(self._unfinished.unlink)
        self._container = self._av.open(str(self._unfinished), "w", format="matroska" if self._is_exact else "mp4")
        undo.callback(self._container.close)
        self._container.metadata.update(tags)
        options = {} if self._is_exact else {"crf": "18", "preset": "veryfast"}
        stream = self._container.add_stream("ffv1" if self._is_exact else "libx264", rate=like.rate, options=options)
        height, width = like.size
        # H.264's colours come for two by two pixels.
        self._padding = (0, 0) if self._is_exact else (height % 2, width % 2)
        stream.height, stream.width = height + self._padding[0], width + self._padding[1]
        stream.pix_fmt = "gray" if self._is_exact else "yuv420p"
        stream.codec_context.time_base = stream.time_base = like.time_base
        self._time_base = like.time_base
        self._stream = stream

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._mux(None)
            self._container.close()
        except (OSError, self._av.FFmpegError) as problem:
            self._unfinished.unlink(missing_ok=True)
            if error is None:
                raise UserError(f"cannot write {self.path}: {_reason(problem)}") from problem
            return
        if error is not None:
            self._unfinished.unlink(missing_ok=True)
            return
        os.chmod(self._unfinished, permissions())
        os.replace(self._unfinished, self.path)

    def write(self, pixels: np.ndarray, time: int) -> None:
        """Adds a frame.

        Args:
            pixels: uint8, class indices (H, W) or RGB (H, W, 3), as the file is meant for.
            time: in ticks of the video that this one is made of.

        Raises:
            UserError: no space left, or whatever else the disk says.
        """
        if any(self._padding):
            pixels = np.pad(pixels, ((0, self._padding[0]), (0, self._padding[1]), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(pixels, format="gray" if self._is_exact else "rgb24")
        frame.pts, frame.time_base = time, self._time_base
        try:
            self._mux(frame)
        except (OSError, self._av.FFmpegError) as error:
            raise UserError(f"cannot write {self.path}: {_reason(error)}") from error

    def _mux(self, frame: Any) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)


def made_from(path: Path) -> str | None:
    """The key in a finished video; None for any other file."""
    av = require_av()
    try:
        with av.open(str(path)) as container:
            key = container.metadata.get(KEY_TAG)
    except (OSError, ValueError, av.FFmpegError):
        return None
    return key if isinstance(key, str) else None


def _orientation(frame: Any) -> int:
    """As in EXIF: a telephone that was held upright says so in the display matrix."""
    for data in frame.side_data:
        if data.type.name == "DISPLAYMATRIX":
            return of_display_matrix(struct.unpack("=9i", bytes(data)))
    return 1


def _reason(error: Exception) -> str:
    """What is wrong, without the number and the path that PyAV adds."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
