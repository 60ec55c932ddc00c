"""One picture becomes one label map, and a folder of them a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill.datasets.reading.images import read_rgb
from segdistill.errors import UserError
from segdistill.prediction.images_in import find_items
from segdistill.prediction.job import Options, Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pictures import labels_in, photo
from tests.prediction.pointwise import PALETTE, Counted, labels_of, predictor, scores

# ------------------------------------------------------------------------------------------------ one picture


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (64, 64), (150, 201)])
def test_a_picture_becomes_class_indices_with_the_classes_colours(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = photo(tmp_path / "a.png", *size)
    assert predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png") == [tmp_path / "out.png"]
    assert (labels_in(tmp_path / "out.png") == labels_of(pixels[..., 0])).all()
    with Image.open(tmp_path / "out.png") as image:
        colors = np.array(image.convert("RGB"))
        assert image.info["classes"] == "dark, grey, bright"
    assert (colors == np.array(PALETTE)[labels_of(pixels[..., 0])]).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "out.png"]


def test_pixels_without_data_are_255_however_few_classes_there_are(tmp_path: Path) -> None:
    pixels = np.dstack([photo(tmp_path / "a.png"), np.full((40, 50), 255, dtype=np.uint8)])
    pixels[:20, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    found = labels_in(tmp_path / "out.png")
    assert (found[:20] == 255).all()
    assert (found[20:] == labels_of(pixels[20:, :, 0])).all()


def test_the_overlay_is_half_colour_half_photograph(tmp_path: Path) -> None:
    pixels = photo(tmp_path / "a.png")
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out", wanted=Wanted(overlay=True))
    mixed = np.array(Image.open(tmp_path / "out/a-overlay.png")).astype(float)
    expected = (pixels.astype(float) + np.array(PALETTE)[labels_of(pixels[..., 0])]) / 2
    assert np.abs(mixed - expected).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr"])
def test_pictures_of_8_bits_are_read_as_in_training(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(path)
    predict_files(predictor(), path, tmp_path / "out.png")
    assert (labels_in(tmp_path / "out.png") == labels_of(read_rgb(path)[0].numpy())).all()


def test_bands_are_read_from_pictures_of_any_depth(tmp_path: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 256, (100, 90)).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    seen: list[torch.dtype] = []

    def scoring(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.dtype)
        return Counted()(images)

    one_band = predictor(scoring, in_channels=1, bands=(1,), pixels=None)
    predict_files(one_band, tmp_path / "deep.png", tmp_path / "out.png")
    assert (labels_in(tmp_path / "out.png") == labels_of(deep)).all()
    assert set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:900]), "a.png cannot be read, it is truncated or no image"),
        (lambda path: path.write_bytes(b""), "a.png cannot be read, it is truncated or no image"),
        (lambda path: path.write_text("hello"), "a.png cannot be read, it is truncated or no image"),
        (lambda path: path.unlink(), "a.png does not exist"),
        (
            lambda path: Image.fromarray(np.zeros((9, 9), dtype=np.uint16)).save(path),
            r"a.png has pixels of the kind I.*; expected 8 bits per channel",
        ),
        (lambda path: path.rename(path.with_name("b.txt")), "a.png does not exist"),
        (lambda path: (path.unlink(), path.mkdir()), "a.png holds no image; expected files ending in .png"),
    ],
)
def test_a_bad_picture_is_told_in_one_sentence(tmp_path: Path, spoil: Callable[[Path], object], told: str) -> None:
    photo(tmp_path / "a.png")
    spoil(tmp_path / "a.png")
    with pytest.raises(UserError, match=told) as error:
        predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.png").exists()


def test_a_picture_too_large_for_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photo(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(UserError, match=r"a.png is too large to be read at once, cut it up or make it a tiled GeoTIFF"):
        predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1900)  # PIL would warn
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out.png")


# ------------------------------------------------------------------------------------------------ many pictures


def test_a_folder_keeps_its_folders_and_is_not_done_twice(tmp_path: Path) -> None:
    for name in ("a.png", "sub/a.jpg", "sub/b.bmp"):
        photo(tmp_path / "in" / name)
    photo(tmp_path / "in/.thumbnails/a.png")
    (tmp_path / "in/notes.txt").write_text("hello")
    out = tmp_path / "in/labels"
    expected = [out / "a.png", out / "sub/a.png", out / "sub/b.png"]
    first = Counted()
    assert predict_files(predictor(first), tmp_path / "in", out) == expected
    assert first.windows == 3
    assert sorted(path for path in out.rglob("*") if path.is_file()) == expected
    again = Counted()
    assert predict_files(predictor(again), tmp_path / "in", out) == expected
    assert again.windows == 0
    photo(tmp_path / "in/c.png")
    predict_files(predictor(again), tmp_path / "in", out)
    assert again.windows == 1
    predict_files(predictor(again), tmp_path / "in", out, wanted=Wanted(overlay=True))
    assert again.windows == 5
    assert len(list(out.rglob("*-overlay.png"))) == 4


@pytest.mark.parametrize("pattern", ["*.png", "**/*.png", "[ab].png"])
def test_patterns_and_lists(tmp_path: Path, pattern: str) -> None:
    for name in ("a.png", "b.png", "c.jpg"):
        photo(tmp_path / "in" / name)
    found = predict_files(predictor(), str(tmp_path / "in" / pattern), tmp_path / "out")
    assert found == [tmp_path / "out/a.png", tmp_path / "out/b.png"]
    both = predict_files(predictor(), [tmp_path / "in/c.jpg", tmp_path / "in/a.png"], tmp_path / "out")
    assert both == [tmp_path / "out/c.png", tmp_path / "out/a.png"]


def test_a_broken_picture_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcd":
        photo(tmp_path / f"in/{name}.png")
    for name in "bd":
        (tmp_path / f"in/{name}.png").write_bytes(b"hello")
    with pytest.raises(UserError, match="2 of 4 images could not be predicted, see above"):
        predict_files(predictor(), tmp_path / "in", tmp_path / "out")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "b.png cannot be read, it is truncated or no image" in told[0]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png"]
    photo(tmp_path / "in/b.png")
    (tmp_path / "in/d.png").unlink()
    rest = Counted()
    predict_files(predictor(rest), tmp_path / "in", tmp_path / "out")
    assert rest.windows == 1


@pytest.mark.parametrize("given", ["in", "in/**/*.png"])
def test_linked_folders_are_followed_and_none_without_end(tmp_path: Path, given: str) -> None:
    for place in ("in/a.png", "elsewhere/deep/b.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        photo(tmp_path / place)
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "deep" / "back").symlink_to(tmp_path / "in")
    items = find_items(str(tmp_path / given), tmp_path / "out")
    assert [item.path for item in items] == [tmp_path / "in/a.png", tmp_path / "in/linked/deep/b.png"]
    assert len(predict_files(predictor(), str(tmp_path / given), tmp_path / "out")) == 2


def test_an_interrupted_folder_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = [photo(tmp_path / f"in/{number}.png", seed=number) for number in range(6)]
    stopped, rest = Counted(stop_after=4), Counted()
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(stopped), tmp_path / "in", tmp_path / "out", quiet=False)
    assert "what is finished is kept; the same command continues from there" in capsys.readouterr().err
    kept = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert kept == ["0.png", "1.png", "2.png", "3.png"]
    predict_files(predictor(rest), tmp_path / "in", tmp_path / "out", quiet=False)
    assert "4 were there already" in capsys.readouterr().out
    assert rest.windows == 2
    for number in range(6):
        assert (labels_in(tmp_path / f"out/{number}.png") == labels_of(pixels[number][..., 0])).all()


def test_where_all_is_done_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder may be read-only by then; not even a lock can be made there."""
    photo(tmp_path / "in/a.png")
    predict_files(predictor(), tmp_path / "in", tmp_path / "out")

    def refuse(*given: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("segdistill.prediction.predict.alone_in", refuse)
    assert predict_files(predictor(), tmp_path / "in", tmp_path / "out", quiet=False) == [tmp_path / "out/a.png"]
    assert capsys.readouterr().out == f"{tmp_path / 'out/a.png'}: there already\n"


def test_what_goes_with_a_replaced_label_map_is_not_taken_for_the_new_ones(tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    predict_files(predictor(), tmp_path / "a.png", tmp_path / "out", wanted=Wanted(overlay=True))
    other = predictor(lambda images: scores(images).flip(1), identity="another")
    predict_files(other, tmp_path / "a.png", tmp_path / "out", wanted=Wanted(overwrite=True))
    assert not (tmp_path / "out/a-overlay.png").exists()
    predict_files(other, tmp_path / "a.png", tmp_path / "out", wanted=Wanted(overlay=True))
    predict_files(other, tmp_path / "a.png", tmp_path / "anew", wanted=Wanted(overlay=True))
    assert (tmp_path / "out/a-overlay.png").read_bytes() == (tmp_path / "anew/a-overlay.png").read_bytes()


@pytest.mark.parametrize("change", ["model", "image", "options", "foreign file"])
def test_what_was_made_otherwise_is_replaced_on_request_alone(tmp_path: Path, change: str) -> None:
    photo(tmp_path / "a.png")
    out = tmp_path / "out.png"
    predict_files(predictor(), tmp_path / "a.png", out)
    other, options = predictor(), Options()
    if change == "model":
        other = predictor(identity="another")
    elif change == "image":
        photo(tmp_path / "a.png", seed=1)
        os.utime(tmp_path / "a.png", ns=(1, 1))
    elif change == "options":
        options = Options(flips="both")
    else:
        photo(out)
    before = out.read_bytes()
    with pytest.raises(UserError, match=r"out.png is there already, and was not made by this model .* --overwrite"):
        predict_files(other, tmp_path / "a.png", out, options=options)
    assert out.read_bytes() == before
    predict_files(other, tmp_path / "a.png", out, options=options, wanted=Wanted(overwrite=True))
    assert out.read_bytes() != before
    count = Counted()
    same = predictor(count, identity=other.identity)
    predict_files(same, tmp_path / "a.png", out, options=options)
    assert count.windows == 0
