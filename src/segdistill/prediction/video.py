"""Videos of label maps, and of pictures of them, written frame by frame."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from segdistill.datasets.reading.image_folders import LABEL_MAP_KEY
from segdistill.datasets.reading.videos import Video, reason_of, require_av
from segdistill.errors import UserError
from segdistill.files import UNFINISHED, permissions

KEY_TAG = LABEL_MAP_KEY.upper()
"""The tag in a finished video that says what it was made from."""


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
            raise UserError(f"cannot write {path}: {reason_of(error)}") from error

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
                raise UserError(f"cannot write {self.path}: {reason_of(problem)}") from problem
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
            raise UserError(f"cannot write {self.path}: {reason_of(error)}") from error

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
