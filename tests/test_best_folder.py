"""What training saves knows its classes, colours and images: every command on RUN/best, and on RUN."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segdistill
from segdistill.exporting.export import export
from segdistill.playground.contenders import open_contenders
from segdistill.prediction.predictor import open_predictor
from tests.datasets.trees import folder_tree, write_mask
from tests.training.runs import train_tiny

CLASSES = ("water", "road", "roof")
PALETTE = ((0, 0, 255), (128, 128, 128), (200, 40, 40))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("best")
    root = folder_tree(folder / "data", {"train": 3, "val": 2})
    for file in sorted((root / "masks").rglob("*.png")):
        write_mask(file, np.array(PALETTE, np.uint8)[np.array(Image.open(file))])
    data = {
        "dataset": "folder",
        "root": str(root),
        "classes": list(CLASSES),
        "palette": [list(color) for color in PALETTE],
        "crop": [16, 16],
        "resize": [24, 32],
        "evaluation_window": 64,
    }
    return train_tiny(folder / "run", data=data, epochs=1).path


@pytest.mark.parametrize("part", ["", "best"])
def test_every_command_knows_names_and_colours(run: Path, part: str, tmp_path: Path) -> None:
    folder = run / part
    described = segdistill.load_run(folder).description
    assert (described.classes, described.palette) == (CLASSES, PALETTE)
    assert (described.pixels, described.bands, described.resize, described.window) == ("uint8", None, (24, 32), 64)

    photo = next((Path(json_data(run)["root"]) / "images" / "val").iterdir())
    segdistill.predict(model=folder, input=str(photo), output=tmp_path / "map.png", device="cpu", quiet=True)
    with Image.open(tmp_path / "map.png") as image:
        colors = np.array(image.getpalette()).reshape(-1, 3)[:3]
    assert [tuple(color) for color in colors.tolist()] == list(PALETTE)

    found = segdistill.evaluate(model=folder, device="cpu", quiet=True, output=tmp_path / "scores.json")
    assert list(found.iou) == list(CLASSES)

    exported = export(run=folder, format="torch-export", output=tmp_path / "net.pt2", quiet=True)
    assert "validation images" in exported.compared_on
    of_file = open_predictor(exported.path)
    assert (of_file.classes, of_file.palette, of_file.model.tiling.window) == (CLASSES, PALETTE, 64)

    (contender,) = open_contenders([str(folder)], device="cpu")
    assert (contender.predictor.classes, contender.predictor.palette) == (CLASSES, PALETTE)


def json_data(run: Path) -> dict[str, str]:
    data: dict[str, str] = segdistill.RunFolder(run).read_config()["data"]
    return data


def test_a_run_on_16_bits_knows_their_kind_and_range(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 2})
    generator = np.random.default_rng(0)
    for file in sorted((root / "images").rglob("*.png")):
        pixels = generator.integers(200, 4000, (4, 12, 16), dtype=np.uint16)
        shape = {"count": 4, "height": 12, "width": 16, "dtype": "uint16"}
        with rasterio.open(file.with_suffix(".tif"), "w", driver="GTiff", **shape) as opened:
            opened.write(pixels)
        file.unlink()
    data = {"dataset": "folder", "root": str(root), "classes": list(CLASSES), "bands": [4, 2], "crop": [16, 16]}
    run = train_tiny(tmp_path / "run", data=data, epochs=1).path
    for folder in (run, run / "best"):
        described = segdistill.load_run(folder).description
        assert (described.pixels, described.bands, described.in_channels) == ("uint16", (4, 2), 2)
        assert described.value_range is not None
        assert 200 <= described.value_range[0] < 300 < 3900 < described.value_range[1] < 4000
        assert described.mean is not None
        assert min(described.mean) > 1000
        predictor = open_predictor(folder, "cpu")
        assert (predictor.bands, predictor.description.pixels != "uint8") == ((4, 2), True)
        card = json.loads((folder / "network.json").read_text())
        assert (card["pixels"], card["bands"]) == ("uint16", [4, 2])


def test_a_run_on_the_first_three_of_four_bands_predicts_such_files_and_pictures(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 2})
    generator = np.random.default_rng(0)
    for file in sorted((root / "images").rglob("*.png")):
        shape = {"count": 4, "height": 12, "width": 16, "dtype": "uint8", "alpha": "NO"}
        with rasterio.open(file.with_suffix(".tif"), "w", driver="GTiff", **shape) as opened:
            opened.write(generator.integers(0, 255, (4, 12, 16), dtype=np.uint8))
        file.unlink()
    data = {"dataset": "folder", "root": str(root), "classes": list(CLASSES), "bands": [1, 2, 3], "crop": [16, 16]}
    run = train_tiny(tmp_path / "run", data=data, epochs=1).path
    picture = tmp_path / "photo.png"
    Image.fromarray(generator.integers(0, 255, (12, 16, 3), dtype=np.uint8)).save(picture)
    four = next((root / "images" / "val").iterdir())
    made = segdistill.predict(
        model=run, input=[str(four), str(picture)], output=tmp_path / "maps", device="cpu", quiet=True
    )
    assert len(made) == 2
    (contender,) = open_contenders([str(run)], device="cpu")
    assert contender.predictor.bands == (1, 2, 3)


def test_a_network_whose_training_has_not_ended_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train_tiny(tmp_path / "run", epochs=1).path
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    jobs = {
        "evaluate": lambda output: segdistill.evaluate(run, output=output / "scores.json", device="cpu"),
        "predict": lambda output: segdistill.predict(run, image, output=output),
        "export": lambda output: segdistill.export(run, size="64x64", images=str(image), output=output / "model.onnx"),
    }
    for ended in (True, False):
        if not ended:
            (run / "metrics.json").unlink()
        for name, job in jobs.items():
            (output := tmp_path / f"{name}-{ended}").mkdir()
            job(output)
            printed = capsys.readouterr()
            said = f"the training of {run} has not ended: this is its network so far"
            assert (said in printed.out + printed.err) is not ended
