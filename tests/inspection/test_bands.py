"""`segdistill data stats`: computed once, saved, and used by every run that names the file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segdistill
from segdistill import RunFolder, UserError, load_run
from segdistill.data.statistics import BandStatistics
from segdistill.inspection.bands import data_statistics
from segdistill.recipe.data import build_data
from segdistill.training import preparation
from tests.inspection.trees import folder_data, sound_tree
from tests.training.runs import FAST, STUDENT, train_tiny


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sound_tree(tmp_path / "data")


def test_numbers_of_the_train_split_alone(root: Path, tmp_path: Path) -> None:
    found = data_statistics(data=folder_data(root), output=tmp_path / "bands.json", quiet=True)
    pixels = np.concatenate([np.asarray(Image.open(path)).reshape(-1, 3) for path in root.glob("images/train/*")]) / 255
    np.testing.assert_allclose(found.mean, pixels.mean(0))
    np.testing.assert_allclose(found.std, pixels.std(0))
    assert (found.minimum, found.maximum) == (tuple(pixels.min(0)), tuple(pixels.max(0)))
    assert BandStatistics.load(tmp_path / "bands.json") == found


def test_converted_files_are_not_asked_for(root: Path, tmp_path: Path) -> None:
    data_statistics(
        data=folder_data(root, tiled_copy=str(tmp_path / "cache")), output=tmp_path / "bands.json", quiet=True
    )
    assert not (tmp_path / "cache").exists()


def never(*_: object, **__: object) -> BandStatistics:
    raise AssertionError("computed although it was given")


@pytest.mark.parametrize("bands", [None, [3, 1]])
def test_a_run_takes_them_from_the_file(
    bands: list[int] | None, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = folder_data(root, crop=[32, 32], bands=bands)
    measured = data_statistics(data=data, output=tmp_path / "measured.json", quiet=True)
    given = replace(measured, mean=tuple(value / 2 for value in measured.mean))
    given.save(tmp_path / "given.json")
    monkeypatch.setattr(preparation, "band_statistics", never)
    run = train_tiny(tmp_path / "run", data=data | {"statistics": str(tmp_path / "given.json")}, epochs=1)
    assert BandStatistics.load(tmp_path / "run/bands.json") == given
    assert normalised_by(run) == pytest.approx(given.mean)


def test_values_that_mostly_mean_no_data(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that does not name them as its nodata value gives a mean and a deviation that hide the picture."""
    data = folder_data(root, crop=[32, 32], bands=[3, 1])
    measured = data_statistics(data=data, output=tmp_path / "bands.json", quiet=True)
    assert measured.doubts() == []
    lowest = float(np.finfo(np.float32).min)
    replace(measured, minimum=(0.0, -9999.0), maximum=(-lowest, 1.0)).save(tmp_path / "bands.json")
    capsys.readouterr()
    options = {"network": STUDENT, "train": replace(FAST, epochs=1), "device": "cpu"}
    segdistill.train(data=data | {"statistics": str(tmp_path / "bands.json")}, output=tmp_path / "run", **options)
    lines = [line for line in capsys.readouterr().out.splitlines() if "without data" in line]
    assert [line.partition(", which")[0] for line in lines] == [
        "warning: a value of band 1 is 3.40282347e+38",
        "warning: a value of band 2 is -9999",
    ]
    assert np.float32("3.40282347e+38") == -np.float32(lowest)
    assert lines[1].endswith("gdal_edit.py -a_nodata -9999 FILE")


def test_a_run_without_the_file_computes_the_same(root: Path, tmp_path: Path) -> None:
    data = folder_data(root, crop=[32, 32], bands=[3, 1])
    measured = data_statistics(data=data, output=tmp_path / "bands.json", quiet=True)
    run = train_tiny(tmp_path / "run", data=data, epochs=1)
    assert json.loads((tmp_path / "run/bands.json").read_text()) == json.loads((tmp_path / "bands.json").read_text())
    assert normalised_by(run) == pytest.approx(measured.mean)


def normalised_by(run: RunFolder) -> list[float]:
    return load_run(run.path).mean.flatten().tolist()


def test_files_that_do_not_fit(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "bands.json"
    found = data_statistics(data=folder_data(root), output=file, quiet=True)

    def told(**more: object) -> str:
        with pytest.raises(UserError) as error:
            build_data(folder_data(root, **({"statistics": str(file)} | more)))
        return str(error.value)

    assert told(statistics=str(tmp_path / "none.json")).endswith("none.json: No such file or directory")
    assert told(statistics=[0.5]) == "data: statistics is [0.5], expected a file that `segdistill data stats` wrote"
    assert told(bands=[1, 2]).endswith("bands.json is of 3 bands, but the images have 2")
    replace(found, mean=(110.0, 0.4, 0.4)).save(file)
    assert told().endswith("holds the mean 110; expected 0 to 1 for images of 8 bits")
