from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

import segdistill
from segdistill import UserError
from segdistill.datasets import SegmentationDataset
from segdistill.evaluation.evaluate import evaluation_table, measure
from tests.datasets.trees import folder_tree, write_image, write_mask
from tests.tiny import tiny_network
from tests.training.runs import SCENES, STUDENT, contents, distill_tiny, train_tiny


class OfAllSizes(SegmentationDataset):
    """Bright and dark squares in images of different size."""

    SIZES = ((32, 48), (48, 24), (17, 33), (40, 40), (8, 64))

    def __init__(self) -> None:
        super().__init__(classes=("a", "b", "c", "d", "e"), ids=[str(size) for size in self.SIZES])

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        generator = np.random.default_rng(index)
        height, width = self.SIZES[index]
        image = generator.integers(0, 256, (3, height, width), dtype=np.uint8)
        return torch.from_numpy(image), torch.from_numpy(generator.integers(0, 5, (height, width)))


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_padding_of_a_batch_is_not_counted(batch_size: int) -> None:
    pixels = sum(height * width for height, width in OfAllSizes.SIZES)
    assert measure(tiny_network(), OfAllSizes(), batch_size=batch_size).pixels == pixels


def test_scoring_leaves_the_mode_as_it_was() -> None:
    for training in (True, False):
        network = tiny_network().train(training)
        before = {key: value.clone() for key, value in network.state_dict().items()}
        measure(network, OfAllSizes())
        assert network.training == training
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_tiny(tmp_path_factory.mktemp("evaluate") / "run", epochs=1).path


def test_a_run_is_scored_on_its_own_data(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    scores = segdistill.evaluate(model=run, device="cpu", batch_size=1)
    assert scores.miou == pytest.approx(metrics["miou"], abs=0.05)
    saved = json.loads((run / "evaluation-val.json").read_text())
    assert saved["iou"] == scores.iou
    assert saved["data"]["dataset"] == "synthetic-aerial"
    printed = capsys.readouterr()
    assert "pixel accuracy" in printed.out
    assert repr(scores).startswith("Evaluation(miou=")
    assert "tensor" not in repr(scores)
    assert "impervious surfaces" in printed.out
    assert printed.err == ""
    test = segdistill.evaluate(model=run, split="test", device="cpu", quiet=True)
    assert test != scores
    assert (run / "evaluation-test.json").exists()
    assert capsys.readouterr() == ("", "")


def test_other_data_and_place(run: Path, tmp_path: Path) -> None:
    classes = ["a", "b", "c", "d", "e", "f"]
    root = folder_tree(tmp_path / "data", {"holdout": 2}, classes=6)
    data = {"dataset": "folder", "root": root, "classes": classes}
    segdistill.evaluate(
        model=run, data=data, split="holdout", output=tmp_path / "x" / "scores.json", device="cpu", quiet=True
    )
    saved = json.loads((tmp_path / "x" / "scores.json").read_text())
    assert list(saved["iou"]) == classes
    assert saved["data"]["root"] == str(root)
    assert not (run / "evaluation-holdout.json").exists()


def test_the_runs_data_changed(run: Path, tmp_path: Path) -> None:
    found = segdistill.evaluate(model=run, data={"count": 2}, output=tmp_path / "scores.json", device="cpu", quiet=True)
    assert found.confusion.shape[0] == 2
    assert json.loads((tmp_path / "scores.json").read_text())["data"] == SCENES | {"count": 2}


def test_classes_in_another_order(run: Path, tmp_path: Path) -> None:
    """Scores would stand beside wrong names, and a student would learn one class for another."""
    names = list(segdistill.load_run(run).description.classes)
    root = folder_tree(tmp_path / "data", {"train": 2, "val": 2}, classes=6)
    data = {"dataset": "folder", "root": str(root), "classes": names[::-1]}
    told = rf"{run} has the classes in another order than the data: 'clutter' is class 5 of .*, but class 0 of the data"
    with pytest.raises(UserError, match=told):
        segdistill.evaluate(model=run, data=data, device="cpu", quiet=True)
    with pytest.raises(UserError, match=told):
        distill_tiny(tmp_path / "student", run, data=data | {"crop": [16, 16]})
    assert not (tmp_path / "student").exists()


def test_a_spec_with_weights_is_the_run(run: Path) -> None:
    weights = str(run / "model.safetensors")
    by_spec = segdistill.evaluate(model=STUDENT, weights=weights, data=SCENES, device="cpu", quiet=True)
    assert by_spec == segdistill.evaluate(model=run, device="cpu", quiet=True)


def test_all_ignored(run: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "images" / "val" / "a.png")
    write_mask(tmp_path / "masks" / "val" / "a.png", np.full((12, 16), 255, dtype=np.uint8))
    data = {"dataset": "folder", "root": tmp_path, "classes": list("abcdef")}
    with pytest.raises(UserError, match="no valid pixel was counted"):
        segdistill.evaluate(model=run, data=data, device="cpu", quiet=True)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model": "nowhere"}, "model 'nowhere' does not exist"),
        ({"model": STUDENT, "data": SCENES}, "is a network spec, which has no trained weights"),
        ({"split": "vall"}, "unknown split of synthetic-aerial 'vall': did you mean 'val'?"),
        (
            {"output": "model.safetensors"},
            "output is model.safetensors, expected the name of a file that ends in",
        ),
        ({"data": "camvid"}, "data: expected mapping or null, found camvid"),
        ({"batch_size": 0}, "batch_size is 0, expected at least 1"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not available here"),
        ({"weights": "none.pth"}, "weights file none.pth does not exist"),
        ({"data": {"dataset": "folder"}}, "the key 'root' is missing"),
    ],
)
def test_bad_input(run: Path, change: dict[str, Any], told: str) -> None:
    before = contents(run)
    with pytest.raises(UserError) as error:
        segdistill.evaluate(**({"model": run, "device": "cpu", "quiet": True} | change))
    assert told in str(error.value)
    assert contents(run) == before


def test_class_count_must_agree(run: Path, tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"val": 1})
    with pytest.raises(UserError, match=r"run has 6 classes, but the data has 3$"):
        segdistill.evaluate(
            model=run, data={"dataset": "folder", "root": root, "classes": ["a", "b", "c"]}, device="cpu", quiet=True
        )


def test_damaged_image_is_named(run: Path, tmp_path: Path) -> None:
    root = folder_tree(tmp_path, {"val": 2}, classes=6)
    file = root / "images" / "val" / "val1.png"
    file.write_bytes(file.read_bytes()[:-100])
    data = {"dataset": "folder", "root": root, "classes": list("abcdef")}
    with pytest.raises(UserError, match=r"val1.png cannot be read, it is truncated"):
        segdistill.evaluate(model=run, data=data, device="cpu", quiet=True)


def test_names_in_brackets_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such a class had no name in the tables, and one like a closing tag ended the command."""
    root = folder_tree(tmp_path / "[b]" / "data", {"train": 3, "val": 2})
    data = {"dataset": "folder", "root": str(root), "classes": ["[background]", "b", "a[/b]"]}
    run = train_tiny(tmp_path / "[b]" / "run", epochs=1, data=data).path
    segdistill.evaluate(model=run, device="cpu")
    said = capsys.readouterr().out
    assert all(name in said for name in (*data["classes"], "[b]/run"))
    segdistill.label(run, root / "images" / "val", output=tmp_path / "labelled", confidence=0.0, device="cpu")
    said = capsys.readouterr().out
    assert all(name in said for name in data["classes"])
    segdistill.train(data=data, network=STUDENT, output=tmp_path / "dry", dry_run=True, device="cpu")
    assert "[background], b, a[/b]" in " ".join(capsys.readouterr().out.split())


def test_a_notebook_shows_the_scores() -> None:
    images = OfAllSizes()
    images.classes = ("<b>", *images.classes[1:])
    found = measure(tiny_network(), images)
    page = found._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    for score in (found.miou, found.pixel_accuracy, found.iou["<b>"], found.boundary.mean_boundary_f1[3]):
        assert score is not None
        assert f">{score:.2f}<" in page


def test_a_narrow_terminal_shows_whole_headings() -> None:
    images = OfAllSizes()
    images.classes = ("a class with quite a long name, as some data sets have", *images.classes[1:])
    console = Console(width=80, file=io.StringIO())
    console.print(evaluation_table(measure(tiny_network(), images), "run on val"))
    assert isinstance(console.file, io.StringIO)
    printed = console.file.getvalue()
    assert {"boundary", "connectivity", "error"} <= set(printed.split())
    assert "…" not in printed
