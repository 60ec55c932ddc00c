from __future__ import annotations

import struct
import sys
import wave
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segdistill.datasets.reading.image_folders import images_below
from segdistill.errors import UserError
from segdistill.prediction.job import Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pointwise import CLASSES, Counted, labels_of, predictor
from tests.training.faults import disk_with_room_for

av = pytest.importorskip("av")


def film(path: Path, count: int = 5, size: tuple[int, int] = (21, 33), rate: int = 25, seed: int = 0) -> np.ndarray:
    """A video of noise, kept exactly; its frames (N, H, W, 3). Every second frame is shown twice as long."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=Fraction(rate))
        stream.height, stream.width = size
        stream.pix_fmt = "bgr0"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number + (number + 1) // 2, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return frames


def frames_of(path: Path, form: str) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as container:
        found = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format=form) for frame in found]), [frame.time for frame in found]


def test_label_maps_of_videos_among_the_videos_are_no_videos(tmp_path: Path) -> None:
    """The same command again found two videos for one label map."""
    film(tmp_path / "street.mov")
    wanted = Wanted(overlay=True)
    [made] = predict_files(predictor(), tmp_path, tmp_path, wanted=wanted)
    assert {path.name for path in tmp_path.iterdir()} == {"street.mov", "street.mkv", "street-overlay.mp4"}
    assert images_below(tmp_path) == [tmp_path / "street.mov"]
    before = made.stat().st_mtime_ns
    assert predict_files(predictor(), tmp_path, tmp_path, wanted=wanted) == [made]
    assert made.stat().st_mtime_ns == before


@pytest.mark.parametrize("size", [(21, 33), (64, 64), (70, 130)])
def test_a_video_becomes_one_of_class_indices(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = film(tmp_path / "street.mkv", size=size)
    [found] = predict_files(predictor(), tmp_path / "street.mkv", tmp_path / "out", wanted=Wanted(overlay=True))
    assert found == tmp_path / "out" / "street.mkv"
    labels, times = frames_of(found, "gray")
    assert (labels == labels_of(frames[..., 0])).all()
    shown, shown_times = frames_of(tmp_path / "out" / "street-overlay.mp4", "rgb24")
    assert shown.shape == (5, size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert times == pytest.approx([0, 0.08, 0.12, 0.2, 0.24], abs=0.002)
    assert shown_times == pytest.approx(times, abs=0.002)
    with av.open(str(found)) as container:
        assert container.metadata["CLASSES"] == ", ".join(CLASSES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"street.mkv", "street-overlay.mp4"}


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda stored: stored),
        ((0, 1, -1, 0), lambda stored: np.rot90(stored, -1)),  # clockwise, a telephone held upright
        ((-1, 0, 0, -1), lambda stored: np.rot90(stored, 2)),
        ((0, -1, 1, 0), np.rot90),
        ((-1, 0, 0, 1), np.fliplr),  # a camera that faces its owner
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda stored: stored.swapaxes(0, 1)),
    ],
)
def test_frames_are_the_right_way_up(tmp_path: Path, matrix: tuple[int, int, int, int], turn: Any) -> None:
    """As the track header of an MP4 says it (ISO 14496-12, 8.3.2)."""
    path = tmp_path / "a.mp4"
    stored = np.zeros((32, 64, 3), dtype=np.uint8)
    stored[:16, :16], stored[16:, :16] = 255, 128
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = 32, 64, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(stored, format="rgb24")))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 44
    a, b, c, d = (number << 16 for number in matrix)
    content[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    [found] = predict_files(predictor(), path, tmp_path / "out")
    labels, _ = frames_of(found, "gray")
    assert (labels[0] == labels_of(np.ascontiguousarray(turn(stored[..., 0])))).all()


def test_a_folder_of_photos_and_videos(tmp_path: Path) -> None:
    film(tmp_path / "in" / "a.mkv", count=2)
    Image.new("RGB", (33, 21)).save(tmp_path / "in" / "b.png")
    found = predict_files(predictor(), tmp_path / "in", tmp_path / "out")
    assert found == [tmp_path / "out" / "a.mkv", tmp_path / "out" / "b.png"]
    assert all(path.is_file() for path in found)


def test_the_overlay_is_half_colour_half_frame(tmp_path: Path) -> None:
    """Flat frames, of which H.264 leaves the colours alone."""
    path = tmp_path / "flat.mkv"
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.height = stream.width = 32
        stream.pix_fmt = "bgr0"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((32, 32, 3), 120, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    predict_files(predictor(), path, tmp_path / "out", wanted=Wanted(overlay=True))
    shown, _ = frames_of(tmp_path / "out" / "flat-overlay.mp4", "rgb24")
    assert np.abs(shown[0, 16, 16].astype(int) - [60, 160, 60]).max() <= 6  # grey is (0, 200, 0)


def test_what_is_finished_is_not_done_again(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv")
    scoring = Counted()
    predict_files(predictor(scoring), tmp_path / "a.mkv", tmp_path / "out.mkv")
    windows = scoring.windows
    predict_files(predictor(scoring), tmp_path / "a.mkv", tmp_path / "out.mkv")
    assert scoring.windows == windows > 0
    with pytest.raises(UserError, match=r"out\.mkv is there already, and was not made by this model"):
        predict_files(predictor(scoring, identity="another"), tmp_path / "a.mkv", tmp_path / "out.mkv")


def test_nothing_half_done_is_left(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv")
    wanted = Wanted(overlay=True)
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(Counted(stop_after=2)), tmp_path / "a.mkv", tmp_path / "out", wanted=wanted)
    assert not (tmp_path / "out").exists()


def test_a_full_disk(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", size=(200, 300))
    with disk_with_room_for(20_000), pytest.raises(UserError, match=r"cannot write \S+out\.mkv: File too large"):
        predict_files(predictor(), tmp_path / "a.mkv", tmp_path / "out.mkv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", count=2)
    film(tmp_path / "b.mkv", count=2)
    (tmp_path / "out" / ".a.mkv.part").mkdir(parents=True)
    with pytest.raises(UserError, match="1 of 2 images could not be predicted"):
        predict_files(predictor(), [tmp_path / "a.mkv", tmp_path / "b.mkv"], tmp_path / "out")
    assert (tmp_path / "out" / "b.mkv").exists()  # the others are done
    assert not (tmp_path / "out" / "a.mkv").exists()


def test_a_codec_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mkv", count=2)
    ordinary = av.container.OutputContainer.add_stream

    class Without:
        """A container of an FFmpeg without H.264."""

        def __init__(self, container: Any) -> None:
            self._container = container

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def add_stream(self, codec: str, **options: Any) -> Any:
            if codec == "libx264":
                raise av.codec.codec.UnknownCodecError(codec)
            return ordinary(self._container, codec, **options)

    opened = av.open
    monkeypatch.setattr(
        av, "open", lambda path, mode="r", **more: Without(opened(path, mode, **more)) if mode == "w" else opened(path)
    )
    with pytest.raises(UserError, match=r"cannot write \S+a-overlay\.mp4: .*libx264"):
        predict_files(predictor(), tmp_path / "a.mkv", tmp_path / "out", wanted=Wanted(overlay=True))
    assert not (tmp_path / "out").exists()


def test_broken_videos(tmp_path: Path) -> None:
    film(tmp_path / "good.mkv", count=3)
    content = (tmp_path / "good.mkv").read_bytes()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mov").write_bytes(b"")
    (tmp_path / "start.webm").write_bytes(content[:600])
    for name in ("text.mp4", "empty.mov", "start.webm"):
        with pytest.raises(UserError, match=rf"{name} (cannot be read as a video|holds no|is broken)"):
            predict_files(predictor(), tmp_path / name, tmp_path / "out")
    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(UserError, match=r"sound\.avi holds no video"):
        predict_files(predictor(), tmp_path / "sound.avi", tmp_path / "out")


def test_options_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mkv")
    with pytest.raises(UserError, match=r"a\.mkv is a video, whose frames are RGB; the model takes other bands"):
        predict_files(predictor(in_channels=4), tmp_path / "a.mkv", tmp_path / "out")
    with pytest.raises(UserError, match=r"vector is for GeoTIFFs, and there is none"):
        predict_files(
            predictor(), tmp_path / "a.mkv", tmp_path / "out", wanted=Wanted(probabilities=False, vector=True)
        )
    with pytest.raises(
        UserError, match=r"output \S+b\.mp4 ends in '\.mp4'; expected \.mkv for the label map of a\.mkv"
    ):
        predict_files(predictor(), tmp_path / "a.mkv", tmp_path / "b.mp4")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"a video needs the package av: pip install 'segdistill\[video\]'"):
        predict_files(predictor(), tmp_path / "a.mkv", tmp_path / "out")
