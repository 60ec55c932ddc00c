from __future__ import annotations

import copy
import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from rich.console import Console
from torch import Tensor

from segdistill.cli.main import main
from segdistill.data.statistics import BandStatistics
from segdistill.data.tiling import Tiling
from segdistill.datasets import SegmentationDataset
from segdistill.errors import UserError
from segdistill.exporting.export import export
from segdistill.exporting.finetune import Guide, find_teacher, finetune, rounding
from segdistill.exporting.int8 import QuantisationCost, quantisation_cost
from segdistill.exporting.sample_images import spread_images
from segdistill.formats.agreement import Form
from segdistill.formats.onnx import OnnxFile
from segdistill.formats.openvino import OpenVinoFile
from segdistill.metrics.scores import scores_from_confusion
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from segdistill.prediction.predictor import open_predictor
from segdistill.recipe.data import build_split
from segdistill.run_folder import RunFolder
from tests.inspection.trees import folder_data, sound_tree
from tests.prediction.networks import saved
from tests.training.runs import SCENES, STUDENT, TEACHER, distill_tiny, fingerprint, train_tiny

NAMES = ("a", "b", "c")
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = SCENES | {"count": 24, "size": [64, 64], "crop": [64, 64]}
    return train_tiny(tmp_path_factory.mktemp("int8") / "run", epochs=8, ema=0.0, loss="balanced", data=data).path


@pytest.mark.slow
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
    assert "IoU in % on 24 validation images" in printed
    if format == "onnx":
        model = onnx.load(found.int8)
        assert any(tensor.data_type == onnx.TensorProto.INT8 for tensor in model.graph.initializer)
        metadata = {entry.key for entry in model.metadata_props}
    else:
        model = openvino.Core().read_model(found.int8)
        assert any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
        metadata = set(model.rt_info["segdistill"])
    assert {"classes", "palette", "segdistill"} <= metadata
    # It predicts by itself, and its scores say what its labels say.
    predictor = open_predictor(found.int8)
    assert predictor.classes == open_predictor(run).classes
    images = next(spread_images(build_split(RunFolder(run).read_config()["data"], "val"), 1))[None]
    labels = OnnxFile(found.int8) if format == "onnx" else OpenVinoFile(found.int8)
    assert (predictor.model.scorer(images).argmax(1).numpy() == labels(images.numpy())).mean() > 0.999


@pytest.mark.slow
def test_signals_are_taken_afterwards(run: Path) -> None:
    """Of OpenVINO's plugins, several of which quantisation starts and ends, none leaves a broken stack for handlers."""
    script = f"""
import os, signal
from segdistill.exporting.export import export
export(run={str(run)!r}, format="openvino", int8=True, calibration=2, output={str(run / "signals.xml")!r}, quiet=True)
signal.signal(signal.SIGUSR1, lambda *_: print("taken"))
os.kill(os.getpid(), signal.SIGUSR1)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.strip().splitlines()[-1:]) == (0, ["taken"]), found.stderr


# ------------------------------------------------------------------------------- quantisation-aware distillation


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = SCENES | {"count": 24, "size": [64, 64], "crop": [64, 64]}
    return train_tiny(tmp_path_factory.mktemp("teacher") / "run", TEACHER, epochs=1, data=data).path


@pytest.mark.slow
def test_fine_tuned_with_rounding_and_a_teacher(
    run: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "net.onnx"
    options = ["--int8", "--calibration", "8", "--finetune", "1", "--teacher", str(teacher), "--output", str(file)]
    before = fingerprint(run)
    assert main(["export", str(run), *options]) == 0
    assert fingerprint(run) == before  # the run keeps its own weights
    report = json.loads((tmp_path / "net-int8.onnx.json").read_text())
    cost = report["cost"]
    assert report["finetune"] == {"epochs": 1, "teacher": str(teacher)}
    printed = capsys.readouterr().out
    assert "int8 fine-tuned" in printed
    for stage in ("before", "post_training", "after"):
        assert f"{cost[f'miou_{stage}']:.2f}" in printed
        assert len(cost[f"iou_{stage}"]) == 6
    # What the file says by itself is what was told of it: mIoU of its labels, counted anew.
    dataset = build_split(RunFolder(run).read_config()["data"], "val")
    session = onnxruntime.InferenceSession(tmp_path / "net-int8.onnx", providers=["CPUExecutionProvider"])
    counts = torch.zeros(6, 6, dtype=torch.int64)
    for index in range(len(dataset)):
        image, labels = dataset[index]
        found = torch.from_numpy(session.run(None, {"images": image[None].numpy()})[0][0]).long()
        counts += torch.bincount((labels * 6 + found).flatten(), minlength=36).view(6, 6)
    assert scores_from_confusion(counts, dataset.classes).miou == pytest.approx(cost["miou_after"], abs=0.01)
    helped = cost["miou_after"] > cost["miou_post_training"]
    assert ("warning: fine-tuning brought no gain" in printed) is not helped


@pytest.mark.slow
def test_fine_tuning_moves_all_weights_and_no_statistics(run: Path, teacher: Path) -> None:
    network, guide = load_run(run), Guide(str(teacher), load_run(teacher))
    tuned = finetune(run, network, guide, 2, Console(quiet=True))
    for name, value in network.named_parameters():
        assert not torch.equal(value, tuned.get_parameter(name)), name
    for name, value in network.named_buffers():
        assert torch.equal(value, tuned.get_buffer(name)), name
    assert not tuned.training


@pytest.mark.slow
def test_fine_tuning_pads_bands_with_their_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's own bands and statistics; crops larger than the images, so that padding shows in every batch."""
    data = folder_data(sound_tree(tmp_path / "data"), crop=[64, 64], bands=[3, 1])
    run, guide = (
        train_tiny(tmp_path / name, network, epochs=1, data=data).path
        for name, network in (("run", STUDENT), ("guide", TEACHER))
    )
    seen: list[Tensor] = []

    def watched(network: Network, batches: list[Tensor], run: Path) -> Network:
        seen.extend(batches)
        return rounding(network, batches, run)

    monkeypatch.setattr("segdistill.exporting.finetune.rounding", watched)
    options = ["--int8", "--calibration", "2", "--finetune", "1", "--teacher", str(guide)]
    assert main(["export", str(run), "--format", "openvino", *options]) == 0
    mean = BandStatistics.load(run / "bands.json").mean
    padded = (torch.cat(seen).float() - 255 * torch.tensor(mean).view(2, 1, 1)).abs().amax(1) < 1
    assert padded.float().mean() > 0.2
    report = json.loads((run / "exports/model-int8.xml.json").read_text())
    assert report["finetune"] == {"epochs": 1, "teacher": str(guide)}
    assert len(report["metadata"]["mean"]) == 2


@pytest.mark.slow
def test_rounding_has_256_levels_and_a_gradient(run: Path) -> None:
    network = load_run(run)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rounded = rounding(network, [images], run)
    logits, views = rounded.forward_with_features(images)  # what methods of distillation look at is there too
    with torch.no_grad():
        truth, plain = network.forward_with_features(images)
    assert 0 < (logits - truth).abs().max() < 0.5 * truth.std()
    assert views.logits.shape == plain.logits.shape
    assert not torch.equal(views.embedding, plain.embedding)
    logits.mean().backward()
    first = rounded.get_parameter("model.stem.0.weight").grad
    assert first is not None
    assert first.abs().max() > 0


@pytest.mark.parametrize("size", [{}, {"resize": [32, 32]}])
def test_a_run_counted_in_steps_whose_teacher_looked_closer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: dict[str, Any]
) -> None:
    """The teacher sees what it saw in the run, and what is rounded sees images of the student's size."""
    data = folder_data(sound_tree(tmp_path / "data"), crop=[16, 16], **size)
    teacher = train_tiny(tmp_path / "teacher", TEACHER, epochs=1, data=data).path
    long = {"method": "kd", "teacher_scale": 2, "epochs": None, "steps": 2}
    run = distill_tiny(tmp_path / "run", teacher, data=data, **long).path
    seen: dict[str, set[tuple[int, ...]]] = {"teacher": set(), "rounded": set()}

    def unrounded(network: Network, batches: list[Tensor], run: Path) -> Network:
        seen["rounded"] |= {tuple(batch.shape[-2:]) for batch in batches}
        return copy.deepcopy(network)

    monkeypatch.setattr("segdistill.exporting.finetune.rounding", unrounded)
    network = load_run(run)
    guide = find_teacher(run, None, network)
    forward = guide.teacher.features
    monkeypatch.setattr(
        guide.teacher, "features", lambda images: (seen["teacher"].add(tuple(images.shape[-2:])), forward(images))[1]
    )
    finetune(run, network, guide, 1, Console(quiet=True))
    assert seen == {"teacher": {(32, 32)}, "rounded": {(16, 16)}}


def test_without_a_compiler(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise RuntimeError("Error checking compiler version for c++")

    monkeypatch.setattr("nncf.torch.force_build_cpu_extensions", fails)
    with pytest.raises(
        UserError, match=rf"the network of {run} cannot be fine-tuned in 8 bits: Error checking compiler"
    ):
        rounding(load_run(run), [torch.rand(1, 3, 64, 64)], run)


def test_bad_fine_tuning(run: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    five = saved(tmp_path / "five", "python:tests.prediction.networks:build_any")
    for arguments, told in (
        (["--finetune", "2"], "finetune needs int8"),
        (["--int8", "--finetune", "0"], "finetune is 0, expected at least 1 epoch"),
        (["--int8", "--teacher", str(teacher)], "teacher is for finetune, the number of epochs to learn from it"),
        (["--int8", "--finetune", "2"], f"finetune needs the folder of a teacher, but {run} names none; give one as"),
        (["--int8", "--finetune", "2", "--teacher", "nowhere"], "'nowhere' is no folder; give one as --teacher"),
        (["--int8", "--finetune", "2", "--teacher", str(five)], f"teacher {five} has 5 classes, but {run} has 6"),
    ):
        assert main(["export", str(run), *arguments]) == 2
        assert told in capsys.readouterr().err


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
        return np.eye(3, dtype=np.float32)[self(images)].transpose(0, 3, 1, 2)


def test_cost_is_counted() -> None:
    dataset = Labelled([(6, 8), (5, 5), (9, 4)])
    found = quantisation_cost(
        Saying(0, 1, 2), Saying(0, 1, 1), dataset, Form("nchw", "labels", None, None), Tiling(), QUIET
    )
    truth = torch.cat([labels[labels != 255] for _, labels in (dataset[index] for index in range(3))])
    share = torch.bincount(truth, minlength=3) / len(truth)
    assert found.before.miou == 100
    ones = share[1] / (share[1] + share[2])
    assert found.after.iou == pytest.approx({"a": 100, "b": 100 * ones.item(), "c": 0})
    assert found.equal_labels == pytest.approx(1 - share[2].item())
    assert found.images == 3
    assert found.loss == pytest.approx(100 - found.after.miou)


def test_cost_at_a_fixed_size() -> None:
    """Images are resized to the file's size, and labels are counted at the image's own."""
    dataset = Labelled([(6, 8), (12, 16)])
    found = quantisation_cost(
        Saying(0, 1, 2), Saying(0, 1, 2), dataset, Form("nchw", "labels", (6, 8), 2), Tiling(), QUIET
    )
    assert found.before.pixels == 5 * 8 + 11 * 16  # the last rows are ignored
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
