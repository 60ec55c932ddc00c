from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import segdistill
from segdistill import PretrainRecipe, RunFolder, TrainConfig, UserError
from segdistill.datasets import SyntheticAerial
from segdistill.methods import METHODS
from segdistill.methods.unlabelled import of_features_alone
from segdistill.networks.pretrained import PRETRAINED_FILE
from segdistill.training.held_out import HeldOut, HeldOutLoss
from segdistill.training.step import Step
from tests.training.runs import FAST, SCENES, STUDENT, contents, distill_tiny, fingerprint, train_tiny
from tests.training.test_resume import Killed, history_without_times, stop_in

STAGES = {"feature": {"embedding": False, "stages": True}}


def pretrain_tiny(output: Path, teacher: Path | str, **options: Any) -> RunFolder:
    own = {key: options.pop(key) for key in list(options) if key in TrainConfig.__dataclass_fields__}
    given = {"data": SCENES, "student": STUDENT, "device": "cpu", "quiet": True, **options}
    return segdistill.pretrain(teacher=teacher, output=output, train=replace(FAST, **own), **given)


def fresh() -> dict[str, torch.Tensor]:
    """The student as seed 0 begins it."""
    torch.manual_seed(0)
    return segdistill.load_network(STUDENT, num_classes=6).model.state_dict()


def loss_columns(run: RunFolder) -> set[str]:
    return {key for row in run.read_numbers() for key in row if "/" in key}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> RunFolder:
    return pretrain_tiny(tmp_path_factory.mktemp("pretrain") / "run", teacher)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(7):
        noise = np.random.default_rng(number).integers(0, 256, (32, 40, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return folder


# ------------------------------------------------------------------------------------------------ what is trained


def test_the_backbone_alone_learns_by_default(stages: RunFolder) -> None:
    trained = load_file(stages.path / PRETRAINED_FILE)
    assert {name.partition(".")[0] for name in trained} == {"stem", "layers"}
    whole, begun = load_file(stages.path / "model.safetensors"), fresh()
    weights = [name for name in whole if name.endswith(("weight", "bias"))]
    changed = {name for name in weights if not torch.equal(whole[name], begun[name])}
    assert {name.partition(".")[0] for name in changed} == {"stem", "layers"}
    assert all(torch.equal(trained[name], whole[name]) for name in trained)
    assert any(name.endswith("running_mean") for name in trained)
    assert loss_columns(stages) == {"loss/feature", "val/loss"}


def test_a_method_of_the_embedding_trains_the_decoder_and_never_the_classifier(tmp_path: Path, teacher: Path) -> None:
    run = pretrain_tiny(tmp_path / "run", teacher, method="feature", epochs=1)
    trained = load_file(run.path / PRETRAINED_FILE)
    assert {name.partition(".")[0] for name in trained} == {"stem", "layers", "head"}
    assert run.read_metrics()["trained"] == ["head", "layers", "stem"]  # type: ignore[index]


def test_the_loss_is_that_on_held_out_images_and_falls(stages: RunFolder) -> None:
    metrics = stages.read_metrics()
    assert metrics is not None
    rows = stages.read_numbers()
    assert metrics["kind"] == "pretrain"
    assert metrics["loss"] == pytest.approx(rows[-1]["val/loss"])
    assert metrics["terms"]["feature"] == pytest.approx(metrics["loss"])
    assert metrics["best"]["loss"] == pytest.approx(min(row["val/loss"] for row in rows))
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]
    assert (stages.path / "best" / PRETRAINED_FILE).exists()
    page = stages.report_file.read_text()
    assert "held-out loss" in page
    assert "it is not an accuracy" in page


def test_labels_change_nothing(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pretrain_tiny(tmp_path / "first", teacher, epochs=1)
    step = Step.__call__

    def blind(self: Step, batches: Any) -> Any:
        # Any class but the ignore label.
        return step(self, ((images, labels.where(labels == 255, 3), *rest) for images, labels, *rest in batches))

    monkeypatch.setattr(Step, "__call__", blind)
    for_labels = {"loss": "dice", "aux": 0.4}  # of a recipe for distill, which serves here too
    assert fingerprint(pretrain_tiny(tmp_path / "second", teacher, epochs=1, **for_labels)) == fingerprint(first)


def test_a_backbone_without_a_head_teaches_images_without_labels(tmp_path: Path, photos: Path) -> None:
    spec, file = "timm:convnext_atto?depths=[1,1,1,1]&dims=[8,16,24,32]", tmp_path / "backbone.safetensors"
    save_file(segdistill.load_network(spec).model.model.state_dict(), file)
    data = {"dataset": "images", "root": str(photos), "crop": [32, 32], "held_out": 0.3}
    run = pretrain_tiny(tmp_path / "run", spec, teacher_weights=file, data=data, epochs=1)
    assert loss_columns(run) == {"loss/feature", "val/loss"}
    with pytest.raises(UserError, match="is a network spec, which has no trained weights"):
        pretrain_tiny(tmp_path / "other", spec, data=data, epochs=1)


def test_images_without_labels(tmp_path: Path, teacher: Path, photos: Path) -> None:
    data = {"dataset": "images", "root": str(photos), "crop": [32, 32], "held_out": 0.3}
    run = pretrain_tiny(tmp_path / "run", teacher, data=data, epochs=1)
    assert loss_columns(run) == {"loss/feature", "val/loss"}
    started = train_tiny(tmp_path / "started", init_weights=str(run.path), epochs=1)
    assert started.read_metrics()["kind"] == "train"  # type: ignore[index]


@pytest.mark.parametrize("method", ["at", {"brd": {"kd": 0}}, "mgd", "reviewkd"])
def test_methods_of_features(tmp_path: Path, teacher: Path, method: Any) -> None:
    run = pretrain_tiny(tmp_path / "run", teacher, method=method, epochs=1)
    assert run.read_numbers()[-1]["val/loss"] > 0


# ------------------------------------------------------------------------------------------------ starting from it


@pytest.mark.parametrize("place", ["", "best"])
def test_a_training_starts_from_it_and_the_classifier_is_fresh(
    stages: RunFolder, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = stages.path / place
    torch.manual_seed(0)
    network = segdistill.load_network(STUDENT, num_classes=4, init_weights=folder)
    torch.manual_seed(0)
    begun = segdistill.load_network(STUDENT, num_classes=4).model.state_dict()
    trained, found = load_file(folder / PRETRAINED_FILE), network.model.state_dict()
    assert all(torch.equal(found[name], trained[name]) for name in trained)
    assert all(torch.equal(found[name], begun[name]) for name in begun.keys() - trained.keys())
    [note] = network.notes
    assert "pre-trained stem, layers loaded" in note
    assert "not pre-trained: head, classifier" in note
    assert len(network.description.classes) == 4


def test_the_file_is_that_of_a_backbone(tmp_path: Path, teacher: Path) -> None:
    student = "smp:FPN:tu-mobilenetv3_small_050"
    run = pretrain_tiny(tmp_path / "run", teacher, student=student, epochs=1)
    torch.manual_seed(1)
    other = "smp:Unet:tu-mobilenetv3_small_050"
    weights = {"encoder": str(run.path / PRETRAINED_FILE)}
    network = segdistill.load_network(other, num_classes=3, init_weights=weights)
    trained, found = load_file(run.path / PRETRAINED_FILE), network.model.state_dict()
    assert trained
    assert all(torch.equal(found[name], value) for name, value in trained.items())


def test_another_network_is_refused(stages: RunFolder) -> None:
    with pytest.raises(UserError, match=r"pretrained.safetensors does not fit this network: \d+ unexpected"):
        segdistill.load_network("smp:FPN:tu-mobilenetv3_small_050", num_classes=4, init_weights=stages.path)


def test_it_does_not_predict(stages: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was made by segdistill pretrain, and its classifier is not trained"):
        segdistill.load_run(stages.path)
    # Nor does it teach its scores, which are random, or have any to be measured.
    for teacher, weights in ((stages.path, None), (STUDENT, stages.path)):
        with pytest.raises(UserError, match="its classifier is not trained"):
            distill_tiny(tmp_path / "run", teacher, teacher_weights=weights)
        with pytest.raises(UserError, match="its classifier is not trained"):
            segdistill.evaluate(teacher, weights=weights, data=SCENES, quiet=True)
    assert segdistill.load_network(stages.path, num_classes=6).start == "features"


# ------------------------------------------------------------------------------------------------ as other runs


@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("method", [None, ["mgd", "ka"]])
def test_resumed_run_equals_unbroken_run(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, method: Any, batch: int
) -> None:
    whole = pretrain_tiny(tmp_path / "whole", teacher, method=method)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=2, batch=batch)
        with pytest.raises(Killed):
            pretrain_tiny(tmp_path / "broken", teacher, method=method)
    half = fingerprint(tmp_path / "broken")
    resumed = segdistill.pretrain(resume=tmp_path / "broken", device="cpu", quiet=True)
    assert half != fingerprint(resumed) == fingerprint(whole)
    assert (resumed.path / PRETRAINED_FILE).read_bytes() == (whole.path / PRETRAINED_FILE).read_bytes()
    assert history_without_times(resumed) == history_without_times(whole)
    first, second = resumed.read_metrics(), whole.read_metrics()
    assert first is not None
    assert second is not None
    assert {**first, "training_seconds": 0} == {**second, "training_seconds": 0}


def test_a_cached_teacher_teaches_what_the_live_one_does(tmp_path: Path, teacher: Path) -> None:
    live = pretrain_tiny(tmp_path / "live", teacher, views=2)
    first, second = (
        pretrain_tiny(tmp_path / name, teacher, views=2, teacher_cache=tmp_path / "cache") for name in ("a", "b")
    )
    assert fingerprint(first) == fingerprint(second)
    for one, other in zip(live.read_numbers(), first.read_numbers(), strict=True):
        assert one["loss/feature"] == pytest.approx(other["loss/feature"], rel=1e-2)
        assert one["val/loss"] == pytest.approx(other["val/loss"], rel=1e-2)


def test_dry_run_writes_nothing(tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain_tiny(tmp_path / "run", teacher, dry_run=True, quiet=False)
    assert not (tmp_path / "run").exists()
    assert "about" in capsys.readouterr().out


def test_validation_leaves_the_run_as_it_is(tmp_path: Path, teacher: Path) -> None:
    """Rarely validated or often, the weights are the same: nothing is drawn, learnt or remembered meanwhile."""
    often = pretrain_tiny(tmp_path / "often", teacher, method=["mgd", "feature"], validate_every=1)
    rarely = pretrain_tiny(tmp_path / "rarely", teacher, method=["mgd", "feature"], validate_every=3)
    assert fingerprint(often) == fingerprint(rarely)


def test_a_run_without_progress_ends_and_keeps_its_best_epoch(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    losses = iter([0.5, 0.6])
    monkeypatch.setattr(HeldOut, "__call__", lambda *_: HeldOutLoss({"feature": next(losses)}))
    run = pretrain_tiny(tmp_path / "run", teacher, patience=1, quiet=False)
    assert "no better val loss in 1 validations; stopping after epoch 2" in capsys.readouterr().out
    metrics = run.read_metrics()
    assert metrics is not None
    assert (metrics["loss"], metrics["best"], metrics["epochs"]) == (0.6, {"loss": 0.5, "epoch": 1}, 2)
    assert fingerprint(run.path / "best") != fingerprint(run)


@pytest.mark.parametrize("change", ["several", "closer", "other bands"])
def test_teachers_as_in_a_distillation(tmp_path: Path, teacher: Path, stages: RunFolder, change: str) -> None:
    """Live and cached alike, and another run than with one teacher that sees what the student sees."""
    other = "python:tests.training.runs:build_student"
    torch.manual_seed(1)
    save_file(segdistill.load_network(other, num_classes=6).model.state_dict(), tmp_path / "other.safetensors")
    options: dict[str, Any] = {
        "several": {"teacher": [str(teacher), other], "teacher_weights": {other: str(tmp_path / "other.safetensors")}},
        "closer": {"teacher": teacher, "teacher_scale": 2},
        "other bands": {"teacher": teacher, "teacher_bands": [3, 1, 2]},
    }[change]
    options |= {"epochs": 1, "views": 1}
    live = pretrain_tiny(tmp_path / "live", **options)
    cached = [pretrain_tiny(tmp_path / f"{n}", **options, teacher_cache=tmp_path / "cache") for n in range(2)]
    assert fingerprint(cached[0]) == fingerprint(cached[1])
    expected = live.read_numbers()[0]["val/loss"]
    assert cached[0].read_numbers()[0]["val/loss"] == pytest.approx(expected, rel=1e-2)
    assert stages.read_numbers()[0]["val/loss"] != pytest.approx(expected, rel=1e-4)
    assert PretrainRecipe.from_dict(live.read_config()).as_dict() == live.read_config()


# ------------------------------------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"method": "kd"}, r"method kd needs class scores, which pretrain does not have; expected .*feature"),
        ({"method": ["feature", "ifvd"]}, r"method ifvd needs labels"),
        ({"method": "brd"}, r"method brd needs class scores, .* or brd: {kd: 0}"),
        ({"method": {"feature": {"embedding": False}}}, "embedding and stages are both false"),
        ({"teacher_weights": {"encoder": "x.safetensors"}, "method": "feature"}, "method feature compares outputs"),
        ({"teacher_weights": "imagenet", "method": "ka"}, r"imagenet are those of a backbone, but method ka compares"),
        ({"backbone_lr": 0.0}, r"train.backbone_lr is 0, which freezes the backbone"),
        ({"views": "auto"}, r"views: auto chooses how many views a teacher cache keeps"),
        ({"seed": -1}, r"seed is -1"),
        ({"teacher": {"a": 1.0, "b": 2.0}}, r"teacher gives weights, {'a': 1.0, 'b': 2.0}, but pretrain learns"),
        ({"teacher_scale": 5}, r"teacher_scale is 5, expected 1, 2, 3 or 4"),
        ({"teacher_bands": [1, 2]}, r"teacher_bands of teacher .* is \[1, 2\], expected 3 numbers"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, teacher: Path, change: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(UserError, match=told) as error:
        pretrain_tiny(tmp_path / "run", **{"teacher": teacher} | change)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_teacher_of_images_knows_its_classes(tmp_path: Path, photos: Path) -> None:
    data = {"dataset": "images", "root": str(photos), "crop": [32, 32]}
    with pytest.raises(UserError, match=r"needs a number of classes, and images without labels give none; expected a"):
        pretrain_tiny(tmp_path / "run", "smp:FPN:resnet18", data=data, teacher_weights="x.safetensors")


def test_a_teacher_may_be_a_backbone_alone(tmp_path: Path) -> None:
    spec = "smp:FPN:tu-mobilenetv3_small_050"
    segdistill.load_network(spec, num_classes=2).save(tmp_path / "whole")
    weights = {"encoder": str(tmp_path / "whole" / "model.safetensors")}
    run = pretrain_tiny(tmp_path / "run", spec, teacher_weights=weights, epochs=1)
    again = pretrain_tiny(tmp_path / "again", spec, teacher_weights=weights, epochs=1)
    assert fingerprint(run) == fingerprint(again)


def test_a_broken_image_stops_the_run_before_its_first_step(tmp_path: Path, teacher: Path, photos: Path) -> None:
    for file in photos.iterdir():
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "photos/3.png").write_bytes(b"hello")
    data = {"dataset": "images", "root": str(tmp_path / "photos"), "crop": [32, 32]}
    with pytest.raises(UserError, match=r"3.png cannot be read"):
        pretrain_tiny(tmp_path / "run", teacher, data=data)
    assert not (tmp_path / "run").exists()


def test_unlabelled_images_that_are_held_out_stop_the_run(tmp_path: Path, teacher: Path, photos: Path) -> None:
    more = tmp_path / "more"
    more.mkdir()
    Image.open(photos / "0.png").save(more / "fine.png")
    image, _ = SyntheticAerial(split="val", **{key: SCENES[key] for key in ("size", "count")})[1]
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(more / "held out.png")
    with pytest.raises(UserError, match=r"1 unlabelled image is also in val, pixel by pixel: .*held out.png"):
        pretrain_tiny(tmp_path / "run", teacher, data=SCENES | {"unlabelled": str(more)})
    assert not (tmp_path / "run").exists()
    (more / "held out.png").unlink()
    pretrain_tiny(tmp_path / "run", teacher, data=SCENES | {"unlabelled": str(more)}, epochs=1)


def test_what_the_refusal_names_works() -> None:
    assert {"feature", "at", "mgd", "reviewkd", "drd"} <= set(of_features_alone())
    assert {"kd", "brd", "ifvd", "dist"} & set(of_features_alone()) == set()
    assert set(of_features_alone()) < set(METHODS)


def test_a_recipe_written_down_is_the_recipe(stages: RunFolder) -> None:
    config = stages.read_config()
    assert PretrainRecipe.from_dict(config).as_dict() == config
    assert json.dumps(config["method"]).startswith('[{"feature": ')


def test_a_pretraining_is_resumed_as_one(tmp_path: Path, stages: RunFolder) -> None:
    with pytest.raises(UserError, match="cannot resume"):
        segdistill.distill(resume=stages.path, device="cpu", quiet=True)
    before = contents(stages.path)
    segdistill.pretrain(resume=stages.path, device="cpu", quiet=True)
    assert contents(stages.path) == before
