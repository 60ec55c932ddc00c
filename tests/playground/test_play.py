"""The page: what its functions give, and where it listens. The served page is in test_play_served.py."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from segdistill import UserError
from segdistill.files import write_yaml
from segdistill.networks.loading import load_run
from segdistill.playground.contenders import (
    Contender,
    TimedLabels,
    example_images,
    open_contenders,
    predicted,
    read_dropped,
)
from segdistill.playground.play import play
from segdistill.prediction.images_in import Picture
from tests.playground.serving import picture
from tests.prediction import pointwise
from tests.prediction.networks import saved

pytest.importorskip("gradio", reason="Gradio is not installed")

# After that, for both need Gradio.
from segdistill.playground.page import pair, pictures
from segdistill.playground.server import Gate, listen

PADDED = "python:tests.prediction.networks:build_padded"

# ------------------------------------------------------------------------------------------------------- functions


def contender(scores: Any = pointwise.scores) -> Contender:
    return Contender("pointwise", Path("pointwise"), pointwise.predictor(scores), None)


def test_a_prediction_is_of_the_whole_image() -> None:
    image = torch.randint(0, 256, (3, 150, 200), dtype=torch.uint8)  # several windows of 64
    found = predicted(contender(), Picture(image))
    expected = pointwise.labels_of(image[0].numpy())
    assert (found.labels.numpy() == expected).all()
    assert found.shares == pytest.approx([(expected == label).mean() for label in range(3)])
    assert found.milliseconds > 0


def test_shares_are_of_the_pixels_that_have_data() -> None:
    image = torch.randint(0, 256, (3, 40, 60), dtype=torch.uint8)
    missing = torch.zeros(40, 60, dtype=torch.bool)
    missing[:30] = True
    found = predicted(contender(), Picture(image, missing))
    expected = pointwise.labels_of(image[0].numpy())[30:]
    assert found.shares == pytest.approx([(expected == label).mean() for label in range(3)])
    nothing = predicted(contender(), Picture(image, torch.ones_like(missing)))
    assert nothing.shares == (0, 0, 0)


def test_a_network_that_fails_is_told_of() -> None:
    def fail(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no image so small")

    with pytest.raises(UserError, match="pointwise fails on an image of 8 x 4 pixels: no image so small"):
        predicted(contender(fail), Picture(torch.zeros(3, 4, 8, dtype=torch.uint8)))


@pytest.mark.parametrize(("size", "shown"), [((30, 90), (30, 90)), ((800, 2400), (533, 1600))])
def test_pictures_have_the_classes_colours(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    found = TimedLabels(torch.randint(0, 3, size, dtype=torch.uint8), 1.0, (0.3, 0.3, 0.4))
    photo, labels = pictures(Picture(image), [found], pointwise.PALETTE)
    assert photo.size == labels.size == shown[::-1]
    colours = np.asarray(labels.convert("RGB"))
    assert {tuple(colour) for colour in np.unique(colours.reshape(-1, 3), axis=0).tolist()} == set(pointwise.PALETTE)
    if shown == size:
        assert (np.asarray(photo) == image.permute(1, 2, 0).numpy()).all()
        assert (colours == np.array(pointwise.PALETTE)[found.labels.numpy()]).all()


def test_a_picture_that_is_shown_again_leaves_the_file_that_a_browser_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    views = [Image.fromarray(np.full((5, 7), value, np.uint8)) for value in (3, 200)]
    left, right = pair(views, 0, 1) or ()
    with left.open("rb") as loading:
        assert pair(views, 1, 0) == (right, left)
        assert (np.asarray(Image.open(loading)) == 3).all()
        loading.seek(0)
        # Not the same file written over: that would be empty for a moment.
        assert os.fstat(loading.fileno()).st_ino != left.stat().st_ino
    assert (np.asarray(Image.open(right)) == 200).all()
    assert pair(None, 0, 1) is None


def test_an_exported_file_goes_without_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.playground.contenders.open_predictor", lambda path, device: pointwise.predictor())
    (of_file,) = open_contenders([str(tmp_path / "model.onnx")])
    assert (of_file.name, of_file.parameters) == ("model.onnx", None)
    assert example_images([of_file], tmp_path / "examples") == ([], "exported files name no data")


def test_runs_with_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [str(saved(tmp_path / name / "net", PADDED)) for name in ("a", "b")]
    assert [one.name for one in open_contenders(runs, "cpu")] == ["a/net", "b/net"]


def describe(folder: Path, **known: Any) -> None:
    """Writes what a saved network knows of itself."""
    network = load_run(folder)
    network.description = replace(network.description, **known)
    network.save(folder)


def test_runs_that_do_not_go_together(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d", "e"]
    runs = {name: saved(tmp_path / name, PADDED, 4 if name == "four" else 3) for name in ("one", "two", "four")}
    data = {"dataset": "folder", "root": "nowhere", "classes": names}
    write_yaml(runs["two"] / "config.yaml", {"data": data})
    describe(runs["two"], classes=tuple(names))
    for given, told in (
        ([], "runs names no run"),
        (["one", "one"], "one is given 2 times"),
        (["one", "two"], "two has the classes a, b, c, d, e, but .*one has class 0, class 1, .*same classes"),
        (["four"], "four takes 4 channels; the page shows RGB images"),
    ):
        with pytest.raises(UserError, match=told):
            open_contenders([str(runs[name]) for name in given], "cpu")
    describe(runs["one"], bands=(3, 2, 1))
    with pytest.raises(UserError, match=r"one takes 3 channels, bands \[3, 2, 1\]"):
        open_contenders([str(runs["one"])], "cpu")
    # Its data cannot be read: the page goes without examples, and says why.
    found, why = example_images(open_contenders([str(runs["two"])], "cpu"), tmp_path / "examples")
    assert found == []
    assert "nowhere" in why


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1", "CMYK"])
def test_images_of_every_kind_of_8_bits_are_read(tmp_path: Path, mode: str) -> None:
    file = picture(tmp_path, f"image.{'jpg' if mode == 'CMYK' else 'png'}", mode)
    image = read_dropped(file)
    assert image.size == (48, 64)
    with Image.open(file) as expected:
        assert (image.pixels.permute(1, 2, 0).numpy() == np.asarray(expected.convert("RGB"))).all()


def test_bad_images_are_told_in_one_sentence(tmp_path: Path) -> None:
    whole = picture(tmp_path, "whole.png").read_bytes()
    contents = {
        "zero.png": (b"", "zero.png is empty: it has 0 bytes"),
        "cut.png": (whole[: len(whole) // 2], "cut.png cannot be decoded, it is truncated or damaged"),
        "noise.png": (b"\0" * 500, "noise.png cannot be read, it is damaged or no image; expected one of PNG"),
        # PIL would run Ghostscript on it.
        "drawing.png": (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
            "drawing.png cannot be read",
        ),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    Image.new("1", (6000, 5000)).save(tmp_path / "large.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    told = {name: sentence for name, (_, sentence) in contents.items()} | {
        "deep.png": "deep.png has more than 8 bits per channel (I;16)",
        "large.png": "large.png has 6000 x 5000 pixels, 30 million; expected at most 25 million",
        "bomb.png": "bomb.png has too many pixels; expected at most 25 million",
    }
    for name, sentence in told.items():
        with pytest.raises(UserError) as error:
            read_dropped(tmp_path / name)
        assert str(error.value).startswith(sentence)
        assert str(tmp_path) not in str(error.value)  # strangers need not know where


def test_an_image_of_16_bits_in_three_channels_is_told_of(tmp_path: Path) -> None:
    """PIL would keep the upper 8 of them, and show 4080 as 15."""
    rasterio = pytest.importorskip("rasterio")
    shape = {"width": 6, "height": 4, "count": 3, "dtype": "uint16"}
    with rasterio.open(tmp_path / "deep.png", "w", driver="PNG", **shape) as file:
        file.write(np.full((3, 4, 6), 4080, np.uint16))
    with pytest.raises(UserError, match=r"^deep.png has pixels of 16 bits per channel; expected 8 bits per channel"):
        read_dropped(tmp_path / "deep.png")


@pytest.mark.parametrize(("bands", "dtype"), [(5, "uint8"), (3, "float32"), (3, "uint16"), (3, "complex64")])
def test_a_tiff_of_other_pixels_is_not_called_no_image(tmp_path: Path, bands: int, dtype: str) -> None:
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(tmp_path / "field.tif", "w", width=6, height=4, count=bands, dtype=dtype) as file:
        file.write(np.ones((bands, 4, 6), dtype))
    with pytest.raises(
        UserError, match=r"^field.tif .* damaged or not of 8 bits with 1, 3 or 4 bands; expected an RGB"
    ):
        read_dropped(tmp_path / "field.tif")


def test_gradio_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'segdistill\[play\]'"):
        play(".")


# ---------------------------------------------------------------------------------------------------------- server


def test_the_next_free_port_is_taken() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with listen("127.0.0.1", port) as second:
            assert second.getsockname()[0] == "127.0.0.1"
            assert port < second.getsockname()[1] < port + 100


@pytest.mark.parametrize(
    ("host", "port", "told"),
    [
        ("127.0.0.1", 70000, "port is 70000; expected a number from 0 to 65535"),
        ("no such host", 0, "host 'no such host' is no address"),
        ("192.0.2.1", 0, "host 192.0.2.1 is no address of this machine"),
    ],
)
def test_addresses_that_cannot_be_listened_on(host: str, port: int, told: str) -> None:
    with pytest.raises(UserError, match=told):
        listen(host, port)


@pytest.mark.parametrize("is_local", [True, False])
def test_only_a_local_page_insists_on_its_name(tmp_path: Path, is_local: bool) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/", "headers": [(b"host", b"some.machine:7860")]}
    asyncio.run(Gate(app, tmp_path, is_local)(scope, None, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == (403 if is_local else 200)
