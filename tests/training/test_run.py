"""The main job, from Python: what a run folder holds, and whether it is true."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import signal
import warnings
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import yaml
from PIL import Image

import segdistill
from segdistill import UserError
from segdistill.cli.main import main
from segdistill.datasets import SyntheticAerial
from segdistill.evaluation.evaluate import measure
from segdistill.prediction.options import PredictOptions
from segdistill.recipe.data import build_split
from segdistill.training import run
from tests.datasets.trees import folder_tree
from tests.training.runs import FAST, SCENES, STUDENT, TEACHER, distill_tiny, fingerprint, train_tiny

SMP_TEACHER = "smp:Unet:tu-mobilenetv3_small_050?decoder_channels=[32,16,16,8,8]"
SMP_STUDENT = "smp:FPN:tu-mobilenetv3_small_050?decoder_pyramid_channels=32&decoder_segmentation_channels=32"


def counted_by_hand(model: torch.nn.Module, dataset: SyntheticAerial) -> tuple[float, float]:
    """mIoU and pixel accuracy of a plain smp model, one image at a time, one class at a time."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    truth, predicted = [], []
    for index in range(len(dataset)):
        image, labels = dataset[index]
        normalised = (image / 255 - mean[:, None, None]) / std[:, None, None]
        with torch.inference_mode():
            predicted.append(model.eval()(normalised[None]).argmax(1)[0].numpy())
        truth.append(labels.numpy())
    t, p = np.stack(truth), np.stack(predicted)
    ious = [
        100 * np.sum((t == k) & (p == k)) / np.sum((t == k) | (p == k))
        for k in range(len(dataset.classes))
        if np.any((t == k) | (p == k))
    ]
    return float(np.mean(ious)), 100 * float(np.mean(t == p))


def test_numbers_and_arrays_of_numpy_make_the_same_run(tmp_path: Path) -> None:
    plain = train_tiny(tmp_path / "plain", epochs=1, seed=3)
    data = SCENES | {"crop": np.array([32, 32]), "count": np.int64(5)}
    train = {**vars(FAST), "epochs": np.int64(1), "lr": np.float64(3e-3)}
    options: dict[str, Any] = {"network": STUDENT, "device": "cpu", "quiet": True, "seed": np.uint32(3)}
    run = segdistill.train(data=data, train=train, output=tmp_path / "numpy", **options)
    assert fingerprint(run) == fingerprint(plain)
    assert run.config_file.read_text() == plain.config_file.read_text()
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    wanted = PredictOptions(run.path, tmp_path / "a.png", output=tmp_path / "b.png", window=np.int64(64), quiet=True)
    assert segdistill.predict(wanted) == [tmp_path / "b.png"]
    assert segdistill.load_network(STUDENT, num_classes=np.int64(3)).num_classes == 3


def test_train_distill_evaluate_with_smp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = SCENES | {"size": [64, 64], "crop": [64, 64]}
    common = {"data": data, "train": FAST, "device": "cpu"}
    segdistill.train(network=SMP_TEACHER, output=tmp_path / "teacher", **common)
    run = segdistill.distill(
        teacher=tmp_path / "teacher", student=SMP_STUDENT, method=["kd", "brd"], output=tmp_path / "student", **common
    )
    lines = capsys.readouterr().out.splitlines()
    epochs = [line.split()[1] for line in lines if line.startswith("epoch")]
    assert epochs == ["1/3", "2/3", "3/3"] * 2
    warnings = [line for line in lines if line.startswith("warning: ")]
    hints = [line for line in lines if line.startswith("hint: ")]
    assert [hint[:13] for hint in hints] == ["hint: teacher"]  # it began with random weights
    assert len(lines) - len(warnings) - len(hints) == 8  # nothing else but a line for each run's end

    files = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    events = {name for name in files if name.startswith("tensorboard/events")}
    assert events
    assert files - events == {
        "config.yaml",
        "config.json",
        "model.safetensors",
        "network.json",
        "report.html",
        "metrics.json",
        "history.csv",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "best/config.json",
        "best/model.safetensors",
        "best/network.json",
    }

    metrics = json.loads(run.metrics_file.read_text())
    scenes = SyntheticAerial("val", count=5, size=(64, 64))
    miou, accuracy = counted_by_hand(smp.from_pretrained(str(run.path)), scenes)
    assert metrics["miou"] == pytest.approx(miou, abs=0.02)
    assert metrics["pixel_accuracy"] == pytest.approx(accuracy, abs=0.02)
    assert metrics["pixels"] == 5 * 64 * 64

    history = run.read_history()
    assert [row["epoch"] for row in history] == ["1", "2", "3"]
    assert float(history[-1]["val/miou"]) == metrics["miou"]
    assert {"loss/task", "loss/kd", "loss/brd.boundary", "loss/brd.relation", "loss/brd.kd"} <= set(history[0])

    scores = segdistill.evaluate(model=run.path, device="cpu")
    assert scores.miou == pytest.approx(metrics["miou"], abs=0.02)
    printed = capsys.readouterr().out
    assert f"{scores.miou:.2f}" in printed
    assert json.loads((run.path / "evaluation-val.json").read_text())["miou"] == scores.miou


def test_config_is_a_recipe_that_reproduces_the_run(tmp_path: Path, teacher: Path) -> None:
    first = distill_tiny(tmp_path / "a", teacher, method={"brd": {"boundary": 2.0}, "ka": {}}, loss="balanced")
    assert main(["distill", str(first.config_file), "--output", str(tmp_path / "b"), "--device", "cpu", "--quiet"]) == 0
    assert fingerprint(first) == fingerprint(tmp_path / "b")
    assert first.config_file.read_text() == (tmp_path / "b" / "config.yaml").read_text()


def test_config_is_complete(tmp_path: Path) -> None:
    """What was chosen for the user is written down too."""
    data = {key: value for key, value in SCENES.items() if key != "crop"}
    config = yaml.safe_load(train_tiny(tmp_path / "run", epochs=1, data=data).config_file.read_text())
    assert config["data"]["crop"] == [32, 32]
    assert set(config["train"]) == set(type(FAST).__dataclass_fields__)
    assert config["seed"] == 0


def test_paths_and_tuples_are_welcome(tmp_path: Path) -> None:
    """A notebook hands over what Python has, and can resume with it."""
    root = folder_tree(tmp_path / "data", {"train": 3, "val": 2})
    data = {"dataset": "folder", "root": root, "classes": ("a", "b", "c"), "crop": (16, 16)}
    run = train_tiny(tmp_path / "run", data=data, epochs=1)
    assert yaml.safe_load(run.config_file.read_text())["data"] == {
        "dataset": "folder",
        "root": str(root),
        "classes": ["a", "b", "c"],
        "crop": [16, 16],
    }
    train_tiny(tmp_path / "run", data=data, epochs=1, resume=True)


def test_a_method_object_is_written_down_in_full(tmp_path: Path, teacher: Path) -> None:
    run = distill_tiny(tmp_path / "run", teacher, method=segdistill.methods.KD(weight=2.0))
    assert run.read_config()["method"] == [{"kd": segdistill.methods.KD(weight=2.0).hyper_parameters()}]


def test_loss_goes_down_where_there_is_nothing_to_generalise(tmp_path: Path) -> None:
    still = SCENES | {"scale": [1.0, 1.0], "flip": False, "count": 2}
    run = train_tiny(
        tmp_path / "run", TEACHER, data=still, epochs=40, lr=2e-2, schedule="constant", validate_every=40, ema=0
    )
    losses = [float(row["loss/task"]) for row in run.read_history()]
    assert losses[-1] < 0.4 * losses[0]
    train = build_split(still, "train")
    learnt = measure(segdistill.load_run(run.path), train)
    assert learnt.pixel_accuracy > 80


def test_seed_decides(tmp_path: Path, teacher: Path) -> None:
    options = {"method": ["ka", "kd"], "epochs": 2}
    prints = [
        fingerprint(distill_tiny(tmp_path / str(n), teacher, seed=seed, **options)) for n, seed in enumerate((0, 0, 1))
    ]
    assert prints[0] == prints[1] != prints[2]


def test_workers_change_nothing(tmp_path: Path) -> None:
    runs = [train_tiny(tmp_path / str(workers), workers=workers, epochs=2) for workers in (0, 1)]
    assert fingerprint(runs[0]) == fingerprint(runs[1])


def test_global_random_state_does_not_matter(tmp_path: Path) -> None:
    torch.manual_seed(5)
    first = train_tiny(tmp_path / "a", epochs=1)
    torch.rand(7)
    assert fingerprint(train_tiny(tmp_path / "b", epochs=1)) == fingerprint(first)


def test_ignored_pixels_can_be_distilled(tmp_path: Path, teacher: Path) -> None:
    data = SCENES | {"scale": [0.5, 0.5]}  # a crop that is mostly padding, so mostly ignored
    prints = set()
    for ignored in ("skip", "distil"):
        run = segdistill.distill(
            data=data,
            teacher=teacher,
            student=STUDENT,
            method="kd",
            ignored=ignored,
            output=tmp_path / ignored,
            train=FAST,
            device="cpu",
            quiet=True,
        )
        assert yaml.safe_load(run.config_file.read_text())["ignored"] == ignored
        prints.add(fingerprint(run))
    assert len(prints) == 2


def test_masks_without_a_label_leave_all_to_the_teacher(tmp_path: Path, teacher: Path) -> None:
    """The balanced loss, the default, has no pixels to count there."""
    for split in ("train", "val"):
        scenes = SyntheticAerial(split, count=4, size=(32, 32))
        for kind in ("images", "masks"):
            (tmp_path / kind / split).mkdir(parents=True)
        for index in range(len(scenes)):
            image, labels = scenes[index]
            mask = labels if split == "val" else torch.full_like(labels, 255)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / split / f"{index}.png")
            Image.fromarray(mask.numpy().astype(np.uint8)).save(tmp_path / "masks" / split / f"{index}.png")
    data = {"dataset": "folder", "root": str(tmp_path), "classes": list(SyntheticAerial.CLASSES), "crop": [32, 32]}
    run = distill_tiny(tmp_path / "run", teacher, data=data, method="kd", ignored="distil", batch_size=2)
    rows = run.read_history()
    assert {float(row["loss/task"]) for row in rows} == {0.0}
    assert all(float(row["loss/kd"]) > 0 for row in rows)


def test_teacher_from_a_weights_file(tmp_path: Path, teacher: Path) -> None:
    """A spec with a .safetensors file is the same teacher as its run folder."""
    options = {"data": SCENES, "student": STUDENT, "train": FAST, "device": "cpu", "quiet": True}
    by_file = segdistill.distill(
        teacher=TEACHER, teacher_weights=str(teacher / "model.safetensors"), output=tmp_path / "a", **options
    )
    by_folder = segdistill.distill(teacher=str(teacher), output=tmp_path / "b", **options)
    assert fingerprint(by_file) == fingerprint(by_folder)


def test_start_from_weights(tmp_path: Path) -> None:
    first = train_tiny(tmp_path / "a", epochs=1)
    again = train_tiny(tmp_path / "b", epochs=1, init_weights=str(first.path / "model.safetensors"))
    scratch = train_tiny(tmp_path / "c", epochs=1)
    loss = [float(run.read_history()[0]["loss/task"]) for run in (first, again, scratch)]
    assert loss[0] == loss[2] != loss[1]


def test_validate_every(tmp_path: Path) -> None:
    """Validated where asked, and always in the end, with that epoch's own scores."""
    run = train_tiny(tmp_path / "run", validate_every=2, epochs=5)
    rows = run.read_history()
    assert [bool(row["val/miou"]) for row in rows] == [False, True, False, True, True]
    metrics = run.read_metrics()
    assert metrics is not None
    assert float(rows[4]["val/miou"]) == metrics["miou"]
    always = train_tiny(tmp_path / "always", validate_every=1, epochs=5)
    assert fingerprint(always) == fingerprint(run)
    for row, same in zip(rows, always.read_history(), strict=True):
        assert row["val/miou"] in ("", same["val/miou"])


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "sgd"}, {"schedule": "poly"}, {"loss": "ce"}, {"weight_decay": 0.5}, {"warmup": 0.5}],
)
def test_options_reach_the_training(tmp_path: Path, options: dict[str, Any]) -> None:
    assert fingerprint(train_tiny(tmp_path / "a")) != fingerprint(train_tiny(tmp_path / "b", **options))


@pytest.mark.parametrize(("steps", "epochs"), [(3, 2), (4, 2), (5, 3)])
def test_a_run_of_so_many_steps(tmp_path: Path, steps: int, epochs: int) -> None:
    """Two steps an epoch; the last one is cut short, and validated."""
    run = train_tiny(tmp_path / "run", steps=steps, epochs=None, validate_every=2)
    metrics = run.read_metrics()
    assert metrics is not None
    assert metrics["epochs"] == len(run.read_history()) == epochs
    assert torch.load(run.checkpoint_file, weights_only=True)["step"] == steps
    assert run.read_history()[-1]["val/miou"]


def test_steps_and_epochs_of_the_same_length_are_the_same_run(tmp_path: Path) -> None:
    runs = [
        train_tiny(tmp_path / name, **length)
        for name, length in (("a", {"steps": 6, "epochs": None}), ("b", {"epochs": 3}))
    ]
    assert fingerprint(runs[0]) == fingerprint(runs[1])
    assert runs[0].read_history()[-1]["lr"] == runs[1].read_history()[-1]["lr"]


def state_of_the_process() -> list[Any]:
    names = ("lightning_fabric", "lightning_fabric.utilities.rank_zero", "", "torch")
    return [
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index,union-attr]
        torch.get_rng_state().tolist(),
        list(warnings.filters),
        {name: logging.getLogger(name).level for name in names},
        dict(os.environ),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)],
    ]


def test_the_networks_of_a_run_take_no_memory_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LARGE", 1000)
    built = []
    build = run.Run.build

    def watched(self: run.Run) -> None:
        build(self)
        built.append(weakref.ref(self.learner))

    monkeypatch.setattr(run.Run, "build", watched)
    gc.disable()
    try:
        train_tiny(tmp_path / "run", epochs=1)
        assert [learner() for learner in built] == [None]
    finally:
        gc.enable()


def test_the_host_process_is_left_as_it_was(tmp_path: Path) -> None:
    """Random states, warning filters, log levels, environment, signals; what imports do they have done before."""
    train_tiny(tmp_path / "first", epochs=1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = state_of_the_process()
    train_tiny(tmp_path / "run", epochs=1)
    assert state_of_the_process() == before


@pytest.fixture(scope="module")
def teacher_of_others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network for four classes; the scenes have six."""
    folder = tmp_path_factory.mktemp("others") / "network"
    segdistill.load_network(TEACHER, num_classes=4).save(folder)
    return folder


@pytest.mark.parametrize("method", ["drd", "ka", {"brd": {"kd": 0}}])
def test_a_teacher_of_other_classes_for_methods_of_features(
    tmp_path: Path, teacher_of_others: Path, method: Any
) -> None:
    run = distill_tiny(tmp_path / "run", teacher_of_others, method=method, epochs=1)
    assert (run.read_metrics() or {})["teacher_miou"] is None
    arguments = ["--data", str(SCENES), "--teacher", str(teacher_of_others), "--student", STUDENT, "--device", "cpu"]
    train = {"epochs": 1, "batch_size": 2, "lr": 3e-3, "precision": "fp32", "workers": 0}
    arguments += ["--method", str(method), "--train", str(train), "--output", str(tmp_path / "again"), "--quiet"]
    assert main(["distill", *arguments]) == 0
    assert fingerprint(tmp_path / "again") == fingerprint(run)


@pytest.mark.parametrize("method", ["kd", "cwd", "brd"])
def test_a_teacher_of_other_classes_for_methods_of_scores(tmp_path: Path, teacher_of_others: Path, method: Any) -> None:
    with pytest.raises(UserError, match=r"student has 6 classes.*teacher.*4"):
        distill_tiny(tmp_path / "run", teacher_of_others, method=method, epochs=1)
    assert not (tmp_path / "run").exists()


def test_a_teacher_whose_training_has_not_ended_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher = train_tiny(tmp_path / "teacher", epochs=1)
    values = {"data": SCENES, "teacher": teacher.path, "student": STUDENT, "train": replace(FAST, epochs=1)}
    values |= {"device": "cpu", "dry_run": True}
    segdistill.distill(**values, output=tmp_path / "one")
    assert "has not ended" not in capsys.readouterr().out
    (teacher.path / "metrics.json").unlink()
    segdistill.distill(**values, output=tmp_path / "two")
    assert f"teacher: the training of {teacher.path} has not ended" in capsys.readouterr().out
