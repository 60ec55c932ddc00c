from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from segdistill.datasets import Images
from segdistill.datasets.base import UNLABELLED, Window
from segdistill.datasets.reading.checking import check_dataset
from segdistill.datasets.reading.decoded_cache import DecodedCache
from segdistill.datasets.reading.first import FirstSamples
from segdistill.datasets.reading.image_folders import images_below
from segdistill.datasets.reading.videos import Video
from segdistill.errors import UserError
from segdistill.files import write_text
from tests.datasets.trees import write_image


def film(path: Path, count: int, codec: str, rate: int = 10, group: int = 6) -> None:
    """A video whose frames all differ, with key frames ``group`` apart and frames stored out of their order."""
    av = pytest.importorskip("av")
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = group
        if codec != "mjpeg":
            stream.max_b_frames = 2
        for number in range(count):
            pixels = random.integers(0, 60, (32, 48, 3), dtype=np.uint8)
            pixels[:, : 2 * number + 2] += 150
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    folder, names = tmp_path / "photos", ["b.png", "c.png", os.fsdecode(b"\xff.png")]
    for number, name in enumerate(names):
        write_image(folder / name, seed=number)
    whole = Images(folder, classes=["a", "b"])
    assert sum(len(Images(folder, split=split)) for split in ("train", "val")) == len(whole) == 3
    kept = DecodedCache(whole, tmp_path / "kept", {}, console=Console(quiet=True))
    assert all(kept[index][0].equal(whole[index][0]) for index in range(3))
    write_text(tmp_path / "names.txt", "\n".join(whole.ids))
    assert (tmp_path / "names.txt").read_bytes() == b"b.png\nc.png\n\xff.png"


def test_pseudo_labels_among_the_images_are_no_images(tmp_path: Path) -> None:
    """`segdistill label photos --output photos/labels --copy` puts a copy of each image there."""
    for name in ("one.png", "labels/images/one.png", "labels/images/clip-000000.png", "labelled/three.png"):
        write_image(tmp_path / name)
    (tmp_path / "labels" / "recipe.yaml").write_text("# Made by segdistill label with runs/a.\n")
    (tmp_path / "labelled" / "recipe.yaml").write_text("# Mine.\n")
    assert images_below(tmp_path) == [tmp_path / "labelled" / "three.png", tmp_path / "one.png"]
    assert len(images_below(tmp_path / "labels")) == 2  # asked for by name


def test_every_file_of_the_folders_is_taken_once_and_has_no_labels(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "deep" / "er" / "one.png", seed=1)
    write_image(tmp_path / "a" / "two.jpg", seed=2)
    write_image(tmp_path / "b" / "three.png", seed=3)
    write_image(tmp_path / "a" / ".hidden" / "not.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "b", target_is_directory=True)
    dataset = Images([tmp_path / "a", tmp_path / "b"])
    folder = (tmp_path / "a").as_posix()
    assert dataset.ids == tuple(f"{folder}/{name}" for name in ("deep/er/one.png", "linked/three.png", "two.jpg"))
    image, labels = dataset[0]
    assert image.equal(torch.from_numpy(np.array(Image.open(tmp_path / "a/deep/er/one.png"))).permute(2, 0, 1))
    assert labels.shape == (12, 16)
    assert labels.dtype == torch.int64
    assert set(labels.unique().tolist()) == {UNLABELLED}
    assert dataset.labels(1).unique().tolist() == [UNLABELLED]
    assert dataset.files(2) == (tmp_path / "a/two.jpg",)
    part, empty = dataset.open(0).window(Window(2, 3, 4, 5))
    assert part.equal(image[:, 2:6, 3:8])
    assert empty.shape == (4, 5)


def test_resize_and_what_is_kept_decoded(tmp_path: Path) -> None:
    for number in range(2):
        write_image(tmp_path / f"{number}.png", seed=number)
    dataset = Images(tmp_path, resize=[9, 10], classes=["road", "roof"])
    kept = DecodedCache(dataset, None, {}, console=Console(quiet=True))
    for index, (image, labels) in enumerate(dataset[number] for number in range(2)):
        assert image.shape == (3, 9, 10)
        assert labels.shape == (9, 10)
        assert kept[index][0].equal(image)
        assert kept[index][1].equal(labels)
    assert kept.unlabelled_index == FirstSamples(kept, 1).unlabelled_index == UNLABELLED
    assert kept.files(1) == FirstSamples(kept, 2).files(1) == (tmp_path / "1.png",)
    assert dataset.at_own_size()[0][0].shape == (3, 12, 16)


def test_no_label_is_no_wrong_label(tmp_path: Path) -> None:
    write_image(tmp_path / "one.png")
    counts = check_dataset(Images(tmp_path, classes=["road", "roof"]))
    assert counts.pixels.tolist() == [0, 0]
    assert counts.ignored == 0


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4"), ("a.mpg", "mpeg2video"), ("a.mov", "mjpeg")],
)
def test_frames_of_videos_are_those_of_the_whole_video(tmp_path: Path, name: str, codec: str) -> None:
    film(tmp_path / name, 17, codec)
    with Video(tmp_path / name) as video:
        frames = [pixels.transpose(2, 0, 1) for pixels, _ in video]
    assert len({frame.tobytes() for frame in frames}) == len(frames) == 17
    dataset = Images(tmp_path, frame_step=4)
    assert dataset.ids == tuple(f"{name}, frame {number}" for number in (0, 4, 8, 12, 16))
    for index in (4, 1, 0, 3, 2):
        assert np.array_equal(dataset[index][0].numpy(), frames[4 * index])
    assert dataset.open(1).size == (32, 48)


def test_bands_of_rasters(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    for number, dtype in enumerate(("uint16", "uint16")):
        with rasterio.open(
            tmp_path / f"{number}.tif", "w", driver="GTiff", width=16, height=12, count=5, dtype=dtype, nodata=7
        ) as file:
            for band in range(1, 6):
                file.write(np.full((12, 16), 100 * band + number, dtype), band)
            file.write(np.full((1, 16), 7, dtype), 5, window=((0, 1), (0, 16)))
    dataset = Images(tmp_path, bands=[5, 1])
    image, labels = dataset[1]
    assert (dataset.in_channels, dataset.bands, dataset.pixel_type()) == (2, (5, 1), "uint16")
    assert image[:, 1:].amin((1, 2)).tolist() == [501, 101]
    assert image.dtype == torch.float32
    assert set(labels[0].tolist()) == {255}
    assert set(labels[1:].unique().tolist()) == {UNLABELLED}
    with pytest.raises(UserError, match=r"0\.tif has 5 bands; expected band 6, named in bands"):
        Images(tmp_path, bands=[6])
    with pytest.raises(UserError, match=r"has 5 bands of uint16, which is no RGB picture"):
        Images(tmp_path)[0]
    write_image(tmp_path / "8bits.tif")
    with pytest.raises(UserError, match="expected 8 bits in all images or in none"):
        Images(tmp_path, bands=[1])[2]


def test_files_held_out_stay_so_when_others_are_added(tmp_path: Path) -> None:
    for number in range(40):
        write_image(tmp_path / f"{number}.png", seed=number)
    train, val = (set(Images(tmp_path, split).ids) for split in ("train", "val"))
    assert train | val == set(Images(tmp_path).ids)
    assert not train & val
    assert 1 <= len(val) <= 10
    for number in range(40, 60):
        write_image(tmp_path / f"{number}.png", seed=number)
    assert val <= set(Images(tmp_path, "val").ids)
    assert train <= set(Images(tmp_path, "train").ids)
    assert len(Images(tmp_path, "val", held_out=0.5)) > len(val)


def test_frames_of_a_video_are_in_one_split(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 8, "libx264")
    write_image(tmp_path / "b.png")
    splits = [Images(tmp_path, split, frame_step=1).ids for split in ("train", "val")]
    assert sorted(map(len, splits)) == [1, 8]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"root": "nowhere"}, "the folder nowhere does not exist; expected images"),
        ({"root": []}, "root is an empty list"),
        ({"split": "test"}, "no split 'test'; expected one of all, train, val"),
        ({"frame_step": 0}, "frame_step is 0; expected at least 1"),
        ({"held_out": 1.0}, "held_out is 1.0; expected a share between 0 and 1"),
        ({"crops_per_image": 0}, "crops_per_image is 0"),
        ({"evaluation_window": 8}, "evaluation_window is 8"),
        ({"resize": [4]}, r"resize is \[4\]; expected \[height, width\]"),
        ({"split": "val"}, "one.png is the only file, so that none can be held out"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    write_image(tmp_path / "one.png")
    with pytest.raises(UserError, match=message):
        Images(**{"root": tmp_path} | arguments)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no image; expected files ending in \.png"):
        Images(tmp_path)
    write_image(tmp_path / "icon.png", 3, 20)
    (tmp_path / "zzz.jpg").write_bytes(b"no picture")
    dataset = Images(tmp_path)
    with pytest.raises(UserError, match=r"icon.png is 20 x 3 pixels; expected at least 8 x 8"):
        dataset[0]
    with pytest.raises(UserError, match=r"zzz.jpg cannot be read, it is truncated or no image"):
        dataset[1]


def test_videos_that_cannot_be_read(tmp_path: Path) -> None:
    film(tmp_path / "whole.avi", 12, "mpeg4")
    content = (tmp_path / "whole.avi").read_bytes()
    dataset = Images(tmp_path, frame_step=11)
    with pytest.raises(UserError, match=r"whole.avi is a video, whose frames are RGB; leave out bands"):
        Images(tmp_path, bands=[1])
    (tmp_path / "whole.avi").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match=r"whole.avi is broken at frame 11: "):
        dataset[1]
    (tmp_path / "whole.avi").write_bytes(b"no film")
    with pytest.raises(UserError, match=r"whole.avi cannot be read as a video"):
        Images(tmp_path)
