"""A map that was interrupted goes on where it stopped, and is what it would have been."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from segdistill.errors import UserError
from segdistill.prediction.job import Options, Wanted
from segdistill.prediction.predict import predict_files
from tests.prediction.pointwise import Counted, labels_of, predictor
from tests.prediction.rasters import ALL, PLACE, labels_in, noise, write_tif

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.mark.parametrize("stop_after", [0, 1, 5, 9, 15])
def test_an_interrupted_map_goes_on_where_it_stopped(tmp_path: Path, stop_after: int) -> None:
    """4 columns by 4 rows of windows: whole rows are kept, and the row before the next one is computed again."""
    pixels = noise(height=200)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(Counted(stop_after)), tmp_path / "a.tif", out, wanted=ALL)
    assert not out.exists()
    kept = list((tmp_path / ".out.tif.part").glob("labels-*"))
    rows = stop_after // 4
    assert len(kept) == stop_after
    count = Counted()
    predict_files(predictor(count), tmp_path / "a.tif", out, wanted=ALL)
    assert count.windows == 16 - 4 * max(0, rows - 1)
    assert (labels_in(out) == labels_of(pixels[0])).all()
    names = ["a.tif", "out-probabilities.tif", "out.gpkg", "out.tif", "out.tif.aux.xml"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    predict_files(predictor(count), tmp_path / "a.tif", out, wanted=ALL)
    assert count.windows == 16 - 4 * max(0, rows - 1)


def test_an_error_at_the_very_end_costs_no_window(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyogrio")
    write_tif(tmp_path / "a.tif", noise(), **PLACE)
    count = Counted()
    with monkeypatch.context() as patch:
        patch.setattr("segdistill.prediction.geotiff.write_polygons", lambda *_: (_ for _ in ()).throw(OSError("gone")))
        with pytest.raises(UserError, match=r"cannot write .*out.tif: gone"):
            predict_files(predictor(count), tmp_path / "a.tif", tmp_path / "out.tif", wanted=ALL)
    assert not (tmp_path / "out.tif").exists()
    before = count.windows
    predict_files(predictor(count), tmp_path / "a.tif", tmp_path / "out.tif", wanted=ALL)
    assert count.windows == before


@pytest.mark.parametrize("change", ["model", "image", "options", "probabilities", "damaged key"])
def test_work_of_another_kind_is_begun_anew(tmp_path: Path, change: str) -> None:
    pixels = noise(height=200)
    write_tif(tmp_path / "a.tif", pixels, **PLACE)
    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict_files(predictor(Counted(9)), tmp_path / "a.tif", out)
    count, wanted, options = Counted(), Wanted(), Options()
    identity, windows = "pointwise", 16
    if change == "model":
        identity = "another"
    elif change == "image":
        pixels = noise(height=200, seed=1)
        write_tif(tmp_path / "a.tif", pixels, compress="deflate", **PLACE)
    elif change == "options":
        options, windows = Options(flips="horizontal"), 32
    elif change == "probabilities":
        wanted = ALL
    else:
        (tmp_path / ".out.tif.part/key.json").write_text("{")
    predict_files(predictor(count, identity=identity), tmp_path / "a.tif", out, options=options, wanted=wanted)
    assert count.windows == windows
    assert (labels_in(out) == labels_of(pixels[0])).all()


KILLED = """
import os, signal, sys
from tests.prediction.pointwise import Counted, predictor
from segdistill.prediction.predict import predict_files
def die():
    os.kill(os.getpid(), signal.SIGKILL)
predict_files(predictor(Counted(10, die)), sys.argv[1], __import__("pathlib").Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_killed_process_leaves_rows_to_go_on_from(tmp_path: Path) -> None:
    pixels = noise(height=200)
    image, out = write_tif(tmp_path / "a.tif", pixels, **PLACE), tmp_path / "out.tif"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(image), str(out)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    count = Counted()
    predict_files(predictor(count), image, out)
    assert count.windows in (12, 16)  # the second row may not have been written yet
    assert (labels_in(out) == labels_of(pixels[0])).all()
