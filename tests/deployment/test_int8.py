from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from torch import Tensor

from segdistill.datasets import SegmentationDataset
from segdistill.deployment.agreement import Form
from segdistill.deployment.export import export
from segdistill.deployment.int8 import QuantisationCost, quantisation_cost
from segdistill.deployment.sample_images import at_size, spread_images
from segdistill.metrics.scores import scores_from_confusion
from tests.training.runs import SCENES, train_tiny

NAMES = ("a", "b", "c")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = SCENES | {"count": 24, "size": [64, 64], "crop": [64, 64]}
    return train_tiny(tmp_path_factory.mktemp("int8") / "run", epochs=8, ema=0.0, loss="balanced", data=data).path


@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_int8_file_is_made_and_scored(run: Path, format: str, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = export(run=run, format=format, int8=True, calibration=8)
    suffix = ".onnx" if format == "onnx" else ".xml"
    assert found.int8 == run / "exports" / f"model-int8{suffix}"
    assert found.cost is not None
    # The float32 file says what the network says, so its score is the one of the finished run.
    miou = json.loads((run / "metrics.json").read_text())["miou"]
    assert found.cost.before.miou == pytest.approx(miou, abs=0.02)
    assert found.cost.images == 24
    assert 0.8 < found.cost.equal_labels < 1
    report = json.loads(found.int8.with_name(f"{found.int8.name}.json").read_text())
    assert report["calibration_images"] == 8
    assert report["cost"] == found.cost.as_dict()
    assert report["cost"]["miou_after"] == found.cost.after.miou
    printed = capsys.readouterr().out
    assert f"{found.cost.after.miou:.2f}" in printed
    assert "int8 on 24 validation images" in printed
    if format == "onnx":
        model = onnx.load(found.int8)
        assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer)
        metadata = {entry.key for entry in model.metadata_props}
    else:
        model = openvino.Core().read_model(found.int8)
        assert any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        metadata = set(model.rt_info["segdistill"])
    assert {"classes", "palette", "segdistill"} <= metadata


class Labelled(SegmentationDataset):
    """Images that are their own labels; the last row is ignored."""

    def __init__(self, sizes: list[tuple[int, int]]) -> None:
        super().__init__(classes=NAMES, ids=[str(index) for index in range(len(sizes))])
        self.sizes = sizes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(0, 3, self.sizes[index], generator=torch.Generator().manual_seed(index))
        image = labels.to(torch.uint8).repeat(3, 1, 1)
        labels[-1] = 255
        return image, labels


class Saying:
    """A file that says of each pixel what a table says of its value."""

    def __init__(self, *table: int) -> None:
        self.table = np.array(table, dtype=np.uint8)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.table[images[:, 0]]

    def logits(self, images: np.ndarray) -> np.ndarray:
        raise NotImplementedError


def test_cost_is_counted() -> None:
    dataset = Labelled([(6, 8), (5, 5), (9, 4)])
    found = quantisation_cost(Saying(0, 1, 2), Saying(0, 1, 1), dataset, Form("nchw", "labels", None, None))
    truth = torch.cat([labels[labels != 255] for _, labels in (dataset[index] for index in range(3))])
    share = torch.bincount(truth, minlength=3) / len(truth)
    assert found.before.miou == 100
    ones = share[1] / (share[1] + share[2])
    assert found.after.iou == pytest.approx({"a": 100, "b": 100 * ones.item(), "c": 0})
    assert found.equal_labels == pytest.approx(1 - share[2].item())
    assert found.images == 3
    assert found.loss == pytest.approx(100 - found.after.miou)


def test_cost_at_a_fixed_size() -> None:
    """Nearest pixels of image and labels, so that a perfect file stays perfect where nothing is blurred."""
    dataset = Labelled([(6, 8), (12, 16)])
    found = quantisation_cost(Saying(0, 1, 2), Saying(0, 1, 2), dataset, Form("nchw", "labels", (6, 8), 2))
    assert found.before.pixels == 40 + 40  # rows of ignored labels are left out: one of 6, and about one of 12
    assert found.equal_labels == 1


def cost(before: list[list[int]], after: list[list[int]]) -> QuantisationCost:
    names = ("a", "b")
    scores = [scores_from_confusion(torch.tensor(counts), names) for counts in (before, after)]
    return QuantisationCost(scores[0], scores[1], 0.9, 3)


def test_a_loss_over_a_point_is_warned_of() -> None:
    assert cost([[500, 0], [0, 500]], [[500, 0], [4, 496]]).warning() is None
    warning = cost([[500, 0], [0, 500]], [[500, 0], [50, 450]]).warning()
    assert warning is not None
    # IoU of a = 500 / 550, of b = 450 / 500
    assert warning.startswith(f"int8 costs {100 - 50 * (500 / 550 + 450 / 500):.2f} points of mIoU. Try")


def test_images_are_spread() -> None:
    dataset = Labelled([(8, 8 + index) for index in range(10)])
    assert [image.shape[2] - 8 for image in spread_images(dataset, 4)] == [0, 2, 5, 7]
    assert len(list(spread_images(dataset, 99))) == 10
    dataset.evaluation_window = 6
    middle = next(spread_images(dataset, 1))
    assert torch.equal(middle, dataset[0][0][:, 1:7, 1:7])


def test_at_size() -> None:
    image = torch.randint(0, 256, (3, 10, 12), dtype=torch.uint8)
    assert at_size(image, None) is image
    assert at_size(image, (10, 12)) is image
    flat = torch.full((3, 10, 12), 77, dtype=torch.uint8)
    assert torch.equal(at_size(flat, (5, 30)), torch.full((3, 5, 30), 77, dtype=torch.uint8))
    bands = torch.full((5, 10, 12), -3.5)
    torch.testing.assert_close(at_size(bands, (4, 4)), torch.full((5, 4, 4), -3.5))
