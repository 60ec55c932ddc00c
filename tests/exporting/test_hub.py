"""Folders for a hub: loaded by their own library alone, with a card that tells what is known and what is not."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segdistill.cli.main import main
from segdistill.exporting.export import export
from segdistill.exporting.model_card import model_card
from segdistill.files import write_json, write_yaml
from segdistill.networks.loading import load_run
from segdistill.networks.network import Network
from segdistill.prediction.predictor import open_predictor
from segdistill.reporting.names import network_name
from tests.prediction.networks import saved

SMP = "smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=64&decoder_segmentation_channels=32"
SEGFORMER = (
    "transformers:segformer?hidden_sizes=[8,16,24,32]&depths=[1,1,1,1]&num_attention_heads=[1,1,1,1]"
    "&decoder_hidden_size=16"
)


def make_run(folder: Path, spec: str, in_channels: int = 3) -> Path:
    """A run on data that is not there."""
    run = saved(folder / "run", spec, in_channels)
    network = load_run(run)
    network.description = replace(network.description, classes=tuple("abcde"))
    network.save(run)
    teacher = saved(folder / "teacher", "python:tests.prediction.networks:build_any")
    write_json(teacher / "metrics.json", {"miou": 61.234})
    data = {"dataset": "folder", "root": "/secret/place", "classes": list("abcde"), "crop": [64, 64]}
    train = {"epochs": 3, "batch_size": 2, "optimizer": "adamw", "lr": 0.001, "loss": "ce"}
    config = {"data": data, "teacher": str(teacher), "method": [{"kd": {}}], "init_weights": None, "train": train}
    write_yaml(run / "config.yaml", config)
    iou: dict[str, float | None] = {"a": 70.0, "b": 40.0, "c": 12.5, "d": 60.0, "e": None}
    write_json(run / "metrics.json", {"miou": 55.5, "iou": iou, "teacher_miou": None})
    return run


def card(folder: Path) -> tuple[dict[str, object], str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "library"),
    [(SMP, "segmentation-models-pytorch"), (SEGFORMER, "transformers")],
    ids=["smp", "transformers"],
)
def test_the_card_s_own_lines_load_it_without_segdistill(spec: str, library: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, spec)
    before = os.umask(0o077)
    try:
        found = export(run=run, format="hub", quiet=True)
    finally:
        os.umask(before)
    assert found.path == run / "exports" / "hub"
    assert found.path.stat().st_mode & 0o777 == 0o700  # as the user has it for all files
    assert found.agreement.equal_labels >= 0.9999
    front, text = card(found.path)
    assert front["license"] == "unknown"
    assert front["library_name"] == library
    assert "datasets" not in front
    (of_model,) = front["model-index"]
    assert of_model["name"] == network_name(spec)
    lines = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert lines is not None
    assert lines[1].count("\n") == 5
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(found.path / "photo.png")
    program = lines[1].replace("photo.jpg", "photo.png") + (
        "import sys, numpy\nassert 'segdistill' not in sys.modules\n"
        "numpy.save('labels.npy', labels.squeeze().numpy())\n"
    )
    settings = {"PATH": "/usr/bin", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, cwd=found.path, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    network = open_predictor(run, "cpu").model.scorer
    with torch.no_grad():
        truth = network(torch.from_numpy(pixels).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    labels = np.load(found.path / "labels.npy")
    assert labels.shape == truth.shape
    assert (labels == truth).mean() >= 0.999
    if library == "transformers":
        assert json.loads((found.path / "config.json").read_text())["id2label"] == dict(
            zip("01234", "abcde", strict=True)
        )


def test_the_card_tells_what_is_known(tmp_path: Path) -> None:
    run = make_run(tmp_path / "cells" / "kd", SMP)
    run = run.rename(run.with_name("seed-0"))
    predictor = open_predictor(run, "cpu")
    assert isinstance(predictor.model.scorer, Network)
    found = model_card(run, predictor.model.scorer, predictor, "smp")
    (scored,) = [one for one in found.data.eval_results if one.metric_type == "mean_iou"]
    assert (scored.metric_value, scored.dataset_split, scored.task_type) == (55.5, "validation", "image-segmentation")
    text = str(found)
    assert str(tmp_path) not in text
    assert "secret" not in text
    assert "| teacher | 61.23 |" in text
    assert "`python:tests.prediction.networks:build_any`" in text
    assert "| the same student trained without the teacher | not measured |" in text
    assert "Whether the teacher helped is not measured" in text
    assert "| this student | 55.50 |" in text
    assert "Method `[{kd: {}}]` (epochs 3, batch_size 2, optimizer adamw, lr 0.001, loss ce)" in text
    assert "| 2 | c | 12.50 |" in text
    assert "The worst class is `c`, with an IoU of 12.5 %" in text
    alone = tmp_path / "cells" / "none" / "seed-0"
    write_json(alone / "metrics.json", {"miou": 56.75})
    text = str(model_card(run, predictor.model.scorer, predictor, "smp"))
    assert "| the same student trained without the teacher | 56.75 |" in text
    assert "The teacher made a difference of -1.25 points, with one seed each" in text


@pytest.mark.parametrize("kind", ["agreement", "overfitted"])
def test_scores_that_are_no_accuracy_are_not_published(tmp_path: Path, kind: str) -> None:
    run = make_run(tmp_path, SMP)
    config, metrics = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "metrics.json").read_text())
    if kind == "agreement":
        write_json(run / "metrics.json", metrics | {"scores": "agreement with the teacher, not accuracy"})
    else:
        write_yaml(run / "config.yaml", config | {"overfit": 4})
    predictor = open_predictor(run, "cpu")
    assert isinstance(predictor.model.scorer, Network)
    found = model_card(run, predictor.model.scorer, predictor, "smp")
    assert found.data.eval_results is None
    assert "| this student | not measured |" in str(found)
    assert "55.5" not in str(found)


@pytest.mark.parametrize(("change", "told"), [({"crop": [32, 32]}, "61.23"), ({"root": "/elsewhere"}, "not measured")])
def test_a_teacher_validated_on_other_data_has_no_score_here(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    run = make_run(tmp_path, SMP)
    config = yaml.safe_load((run / "config.yaml").read_text())
    train = {"epochs": None, "steps": 700}
    write_yaml(run / "config.yaml", config | {"train": config["train"] | train})
    write_yaml(tmp_path / "teacher" / "config.yaml", {"data": config["data"] | change})
    predictor = open_predictor(run, "cpu")
    assert isinstance(predictor.model.scorer, Network)
    text = str(model_card(run, predictor.model.scorer, predictor, "smp"))
    assert f"| teacher | {told} |" in text
    assert "(steps 700, batch_size 2," in text


def test_the_card_of_a_bare_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "net", SMP, in_channels=5)
    found = export(run=folder, format="hub", output=tmp_path / "hub", quiet=True)
    _, text = card(found.path)
    assert "## Training\n\nNot recorded." in text
    assert "mIoU on the validation images: not measured" in text
    lines = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert lines is not None
    monkeypatch.chdir(found.path)
    values: dict[str, torch.Tensor] = {}
    exec(lines[1], values)
    assert values["scores"].shape == (1, 5, 256, 256)


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = saved(tmp_path / "other", "python:tests.prediction.networks:build_any")
    run = saved(tmp_path / "net", SMP)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "README.md").write_text("license: mit")
    (tmp_path / "file").touch()
    for arguments, told in (
        (
            [str(other)],
            "format hub is for networks of smp and transformers, which their own libraries load, but that of",
        ),
        ([str(run), "--int8"], "format hub saves the network as it is; leave int8 out"),
        ([str(run), "--layout", "nhwc"], "leave layout out"),
        (
            [str(run), "--output", str(tmp_path / "taken")],
            "taken exists already; remove it, or choose another --output",
        ),
        ([str(run), "--output", str(tmp_path / "file")], "file exists already"),
    ):
        assert main(["export", *arguments, "--format", "hub"]) == 2
        assert told in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"other", "net", "taken", "file"}
    assert (tmp_path / "taken" / "README.md").read_text() == "license: mit"
    assert not (other / "exports").exists()
