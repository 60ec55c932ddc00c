"""A network of 8 bits refuses images in a unit of their own, and the other way round."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import segdistill
from segdistill.data.describing import describe_network
from segdistill.datasets import Folder
from segdistill.errors import UserError
from segdistill.playground.contenders import open_contenders
from segdistill.prediction.predict import predict
from tests.datasets.trees import write_mask
from tests.prediction.networks import saved

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

CLASSES = ("road", "roof", "tree")


def tree(root: Path, dtype: str) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256 if dtype == "uint8" else 4000, (3, 40, 50)).astype(dtype)
    (root / "images/val").mkdir(parents=True)
    shape = {"count": 3, "height": 40, "width": 50, "dtype": dtype}
    with rasterio.open(root / "images/val/a.tif", "w", driver="GTiff", **shape) as file:
        file.write(pixels)
    write_mask(root / "masks/val/a.png", np.zeros((40, 50), np.uint8))
    return root


def run(root: Path, data: Path) -> Path:
    saved(root, "python:tests.prediction.networks:build_any", classes=3)
    network = segdistill.load_run(root)
    describe_network(network, Folder(data, CLASSES, "val", bands=[1, 2, 3]))
    network.save(root)
    return root


@pytest.mark.parametrize(("trained", "shown"), [("uint8", "uint16"), ("uint16", "uint8"), ("uint8", "float32")])
def test_the_other_kind_is_refused(tmp_path: Path, trained: str, shown: str) -> None:
    own, other = tree(tmp_path / "own", trained), tree(tmp_path / "other", shown)
    model = run(tmp_path / "run", own)
    kinds = {
        "uint8": r"8 bits \(uint8\)",
        "uint16": "type uint16",
        "float32": "type float32",
    }
    told = rf"holds pixels of {kinds[shown]}, but the model was trained on pixels of {kinds[trained]}; [^\n]*$"
    with pytest.raises(UserError, match=rf"a\.tif {told}"):
        predict(model=model, input=other / "images/val/a.tif", output=tmp_path / "x.tif", device="cpu", quiet=True)
    data = {"dataset": "folder", "classes": list(CLASSES), "bands": [1, 2, 3]}
    with pytest.raises(UserError, match=told):
        segdistill.evaluate(model=model, data=data | {"root": str(other)}, device="cpu", quiet=True)
    predict(model=model, input=own / "images/val/a.tif", output=tmp_path / "x.tif", device="cpu", quiet=True)
    output = tmp_path / "scores.json"
    segdistill.evaluate(model=model, data=data | {"root": str(own)}, device="cpu", quiet=True, output=output)


def test_a_picture_is_of_8_bits(tmp_path: Path) -> None:
    model = run(tmp_path / "run", tree(tmp_path / "own", "uint16"))
    write_mask(tmp_path / "photo.png", np.zeros((40, 50, 3), np.uint8))
    with pytest.raises(UserError, match=r"photo\.png holds pixels of 8 bits"):
        predict(model=model, input=tmp_path / "photo.png", output=tmp_path / "x.png", device="cpu", quiet=True)
    network = segdistill.load_run(model)
    network.description = replace(network.description, bands=None)
    network.save(model)
    with pytest.raises(UserError, match=r"photo\.png holds pixels of 8 bits"):
        predict(model=model, input=tmp_path / "photo.png", output=tmp_path / "x.png", device="cpu", quiet=True)
    with pytest.raises(UserError, match=r"an image on the page holds pixels of 8 bits"):
        open_contenders([str(model)], "cpu")
