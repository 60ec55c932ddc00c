"""Everything a user can get wrong: one sentence, exit code 2, no traceback, nothing overwritten."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from segdistill.cli.main import main
from segdistill.methods import KD
from tests.datasets.trees import folder_tree, index_mask, write_image, write_mask
from tests.training.runs import SCENES, STUDENT, contents

TINY = "python:tests.tiny:build_tiny"
TRAIN = {"epochs": 1, "batch_size": 2, "precision": "fp32", "workers": 0}
CLASSES = ["road", "roof", "tree"]


def shell(values: Any) -> str:
    """A value as it is typed on a command line."""
    if isinstance(values, str | Path):
        return str(values)
    return yaml.safe_dump(values, default_flow_style=True, width=10**6).strip()


def argv(command: str, **options: Any) -> list[str]:
    return [command, *(text for key, value in options.items() for text in (f"--{key}", shell(value)))]


def fails(capfd: pytest.CaptureFixture[str], arguments: Sequence[object], *told: str) -> str:
    """Runs the command, checks that it fails as it should, and that its one sentence holds every text of ``told``."""
    capfd.readouterr()
    code = main([str(argument) for argument in arguments])
    printed = capfd.readouterr()
    assert code == 2, printed
    assert printed.err.startswith("segdistill: ")
    assert printed.err.count("\n") == 1, printed.err
    assert printed.err.endswith("\n")
    assert "Traceback" not in printed.err + printed.out
    for text in told:
        assert text in printed.err
    return printed.err


# ------------------------------------------------------------------------------------------------ data on disk


def broken(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def rgb(path: Path, *colors: tuple[int, int, int]) -> None:
    Image.fromarray(np.array([[colors[i % len(colors)] for i in range(16)]] * 12, dtype=np.uint8)).save(path)


PALETTE = {"palette": ["#ff0000", "#00ff00", "#0000ff"]}
DAMAGES: dict[str, tuple[Callable[[Path], object], dict[str, Any], list[str]]] = {
    "missing root": (
        shutil.rmtree,
        {},
        ["/data does not exist", "expected a folder that holds images/ and masks/"],
    ),
    "root is a file": (
        lambda root: (shutil.rmtree(root), root.write_text("")),
        {},
        ["/data is no folder", "expected a folder that holds images/ and masks/"],
    ),
    "no masks at all": (lambda root: shutil.rmtree(root / "masks"), {}, ["/masks does not exist"]),
    "no validation split": (
        lambda root: (shutil.rmtree(root / "images" / "val"), shutil.rmtree(root / "masks" / "val")),
        {},
        ["has no split 'val'; it has train"],
    ),
    "missing image": (
        lambda root: (root / "images/train/train1.png").unlink(),
        {},
        ["1 mask of", "without an image of the same stem in", "train1"],
    ),
    "missing mask": (
        lambda root: (root / "masks/val/val0.png").unlink(),
        {},
        ["1 image of", "without a mask of the same stem in", "val0"],
    ),
    "mask of another size": (
        lambda root: write_mask(root / "masks/train/train2.png", index_mask(3, 12, 20)),
        {},
        ["train2.png is 20 x 12 pixels but its image", "is 16 x 12"],
    ),
    "truncated mask": (
        lambda root: broken(root / "masks/val/val1.png"),
        {},
        ["masks/val/val1.png cannot be read, it is truncated or no image"],
    ),
    "image that is no image": (
        lambda root: (root / "images/val/val1.png").write_text("hello"),
        {},
        ["images/val/val1.png cannot be read, it is truncated or no image"],
    ),
    "label outside": (
        lambda root: write_mask(root / "masks/train/train3.png", index_mask(3) + 3 * index_mask(2, seed=1)),
        {},
        ["train3.png holds the label values 3, 4, 5, outside the classes 0 to 2", "0/255", "RGB palette"],
    ),
    "masks of 0 and 255": (
        lambda root: [write_mask(path, index_mask(2) * 255) for path in (root / "masks/train").iterdir()],
        {},
        ["hold nothing but 'road' and the ignore label", "0/255 instead of 0/1"],
    ),
    "colours without a palette": (
        lambda root: rgb(root / "masks/train/train0.png", (255, 0, 0)),
        {},
        ["train0.png is an RGB mask, and no palette says which colour is which class"],
    ),
    "colour outside the palette": (
        lambda root: rgb(root / "masks/train/train0.png", (255, 0, 0), (1, 2, 3)),
        PALETTE,
        ["train0.png holds the colour #010203, not in the palette"],
    ),
    "palette of another length": (
        lambda root: None,
        {"palette": ["#ff0000", "#00ff00"]},
        ["palette has 2 colours for 3 classes (road, roof, tree)"],
    ),
    "empty split": (
        lambda root: [path.unlink() for path in [*root.glob("*/val/*")]],
        {},
        ["images/val holds no image, so the split is empty"],
    ),
    "empty split file": (
        lambda root: (
            [shutil.move(path, path.parent.parent) for path in root.glob("*/*/*.png")],
            [shutil.rmtree(path) for path in root.glob("*/*/")],
            (root / "train.txt").write_text("train0\n"),
            (root / "val.txt").write_text("\n"),
        ),
        {},
        ["val.txt is an empty file, so the split is empty"],
    ),
    "listed name that is not there": (
        lambda root: (
            [shutil.move(path, path.parent.parent) for path in root.glob("*/*/*.png")],
            [shutil.rmtree(path) for path in root.glob("*/*/")],
            (root / "train.txt").write_text("train0\ntrain77\n"),
            (root / "val.txt").write_text("val0\n"),
        ),
        {},
        ["1 name listed in", "train.txt without an image", "train77"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_bad_data(tmp_path: Path, capfd: pytest.CaptureFixture[str], damage: str) -> None:
    do, extra, told = DAMAGES[damage]
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    do(root)
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]} | extra
    fails(capfd, argv("train", data=data, network=TINY, train=TRAIN, device="cpu", output=tmp_path / "run"), *told)
    assert not (tmp_path / "run").exists()


def test_truncated_image_is_found_before_anything_is_overwritten(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]}
    command = argv("train", data=data, network=TINY, train=TRAIN, device="cpu", output=tmp_path / "run")
    assert main([*command, "--quiet"]) == 0
    before = contents(tmp_path / "run")
    broken(root / "images/train/train2.png")
    fails(capfd, [*command, "--overwrite"], "images/train/train2.png cannot be read, it is truncated or no image")
    assert contents(tmp_path / "run") == before


# -------------------------------------------------------------------------------------- keys, names and values

RECIPE = {"data": SCENES, "network": STUDENT, "train": TRAIN}
CHANGES: list[tuple[dict[str, Any], list[str]]] = [
    ({"data.dataset": "camvd"}, ["unknown data set 'camvd': did you mean 'camvid'?", "Known: ade20k, camvid, "]),
    ({"data.root": "x"}, ["unknown key in data: 'root'"]),
    ({"data.crpo": [1, 2]}, ["unknown key in data: 'crpo': did you mean 'crop'?"]),
    ({"data.crop": "big"}, ["data: crop: expected list[int] or null, found big"]),
    ({"data": "hello"}, ["data: expected mapping, found hello"]),
    ({"network": "smp:FPM:resnet18"}, ["unknown smp architecture 'FPM': did you mean 'FPN'?", "Unet"]),
    ({"network": "smp:FPN:resnet19"}, ["unknown smp encoder 'resnet19': did you mean resnet18"]),
    ({"network": "torchvision:fcn_resnet5"}, ["fcn_resnet5", "did you mean", "fcn_resnet50"]),
    ({"network": "transformers:segfromer"}, ["segfromer"]),
    ({"network": "spm:FPN:resnet18"}, ["unknown network 'spm:FPN:resnet18'", "smp:..."]),
    ({"network": "runs/nowhere"}, ["unknown network 'runs/nowhere': no such folder"]),
    ({"network": "python:tests.tiny:build_tony"}, ["build_tony", "did you mean 'build_tiny'?"]),
    (
        {"network": "python:tests.cli.test_bad_input:wrong_tap"},
        ["TinyModel has no module 'layers.9': did you mean layers.3"],
    ),
    ({"network": "python:tests.cli.test_bad_input:five_classes"}, ["has 5 classes, expected num_classes=6"]),
    ({"init_weights": "nowhere.safetensors"}, ["weights file nowhere.safetensors does not exist"]),
    ({"seed": -1}, ["seed is -1, expected 0 to"]),
    ({"seed": 2**70}, ["seed is", "expected 0 to"]),
    ({"seed": "zero"}, ["seed: expected int, found zero"]),
    ({"device": "cuda:55"}, ["device 'cuda:55' is not available here; expected auto, cpu, cuda"]),
    ({"device": "meta"}, ["device 'meta' is not available here"]),
    ({"netwrk": "x"}, ["unknown key 'netwrk': did you mean 'network'?"]),
    ({"method": "kd"}, ["unknown key 'method'"]),
    ({"train.lr": 0}, ["train.lr is 0.0, expected a number above 0"]),
    ({"train.lr": "fast"}, ["train.lr: expected float, found fast"]),
    ({"train.lrr": 1}, ["unknown key 'train.lrr': did you mean 'train.lr'?"]),
    ({"train.epochs": 1.5}, ["train.epochs: expected int or null, found 1.5"]),
    ({"train.epochs": 0}, ["train.epochs is 0, expected at least 1"]),
    ({"train.optimizer": "adam"}, ["train.optimizer", "found adam", "adamw"]),
    ({"train.schedule": "cosin"}, ["train.schedule", "found cosin", "cosine"]),
    ({"train.workers": -2}, ["train.workers is -2, expected 0 or more"]),
    ({"train.precision": "fp8"}, ["train.precision", "found fp8", "fp16"]),
    ({"train": None}, ["train is None, expected a mapping of keys to values"]),
    ({"data": 3}, ["data: expected mapping", "found 3"]),
    ({"resume": "perhaps"}, ["cannot resume perhaps: it is not a run folder, since it has no config.yaml"]),
]


def wrong_tap(num_classes: int, in_channels: int) -> Any:
    from segdistill import Network
    from tests.tiny import TinyModel

    model = TinyModel(4, 8, num_classes, in_channels)
    return Network(model, stages=["layers.0", "layers.9"], embedding="head", logits="classifier")


def five_classes(num_classes: int, in_channels: int) -> Any:
    from tests.tiny import tiny_network

    return tiny_network(classes=5)


def with_change(recipe: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    made = dict(recipe)
    for key, value in change.items():
        top, dot, below = key.partition(".")
        made[top] = made.get(top, {}) | {below: value} if dot else value
    return made


@pytest.mark.parametrize(("change", "told"), CHANGES, ids=[shell(change) for change, _ in CHANGES])
def test_bad_key_or_value_in_a_recipe(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any], told: list[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(with_change(RECIPE | {"device": "cpu"}, change)))
    fails(capfd, ["train", file, "--output", tmp_path / "run"], *told)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"train.lr": "fast"}, {"data.crpo": [1, 2]}, {"netwrk": "x"}, {"train.lrr": 1}])
def test_bad_option_after_a_recipe(tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any]) -> None:
    told = next(told for other, told in CHANGES if other == change)
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(RECIPE))
    (key, value), *_ = change.items()
    fails(capfd, ["train", file, "--output", tmp_path / "run", f"--{key}", shell(value)], *told)
    assert not (tmp_path / "run").exists()


METHODS: list[tuple[str, list[str]]] = [
    ("brb", ["unknown method 'brb': did you mean 'brd'?", "Known: afdcd, at, "]),
    ("[kd, brb]", ["unknown method 'brb': did you mean 'brd'?"]),
    ("{brd: {boundry: 2}}", ["unknown key in method brd: 'boundry': did you mean 'boundary'?"]),
    ("{brd: {boundary: x}}", ["method brd: boundary: expected float, found x"]),
    ("{brd: {operator: roberts}}", ["method brd: operator: expected one of 'pool'", "found roberts"]),
    ("{brd: 2}", ["method brd is followed by 2, expected a mapping"]),
    ("[]", ["method is [], expected a method's name"]),
    ("5", ["5"]),
]


@pytest.mark.parametrize(("method", "told"), METHODS)
def test_bad_method(
    tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str], method: str, told: list[str]
) -> None:
    arguments = argv("distill", data=SCENES, teacher=finished, student=STUDENT, train=TRAIN, output=tmp_path / "run")
    fails(capfd, [*arguments, "--method", method], *told)
    assert not (tmp_path / "run").exists()


def test_teacher_without_weights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = argv("distill", data=SCENES, teacher=TINY, student=STUDENT, train=TRAIN, output=tmp_path / "run")
    fails(capfd, arguments, f"teacher '{TINY}' is a network spec", "no trained weights", "teacher_weights")
    assert not (tmp_path / "run").exists()


def test_class_counts_disagree(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Teacher, student and data: whichever is the odd one."""
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]}
    common = {"train": TRAIN, "device": "cpu", "output": tmp_path / "run", "method": "kd"}
    fails(
        capfd,
        argv("distill", data=data, teacher=finished, student=STUDENT, **common),
        "method kd compares class scores, but the student has 3 classes and the teacher 6",
    )
    fails(
        capfd,
        argv(
            "distill", data=SCENES, teacher=finished, student="python:tests.cli.test_bad_input:five_classes", **common
        ),
        "has 5 classes, expected num_classes=6",
    )
    del common["method"]
    fails(capfd, argv("train", data=data, network=finished, **common), "has 6 classes, expected num_classes=3")
    fails(capfd, argv("evaluate", model=finished, data=data, device="cpu"), "has 6 classes, but the data has 3")
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["trian"],
            [
                "unknown command 'trian': did you mean 'train'?",
                "Known: advise, benchmark, compare, data, demo, distill",
            ],
        ),
        (
            ["train"],
            ["data, network, output missing; expected --data, --network, --output, or a recipe that has them; "],
        ),
        (["distill"], ["data, teacher, student, output missing"]),
        (["evaluate"], ["model missing; expected segdistill evaluate MODEL; segdistill evaluate --help shows"]),
        (["evaluate", "runs/nowhere"], ["model 'runs/nowhere' does not exist; expected a run folder"]),
        (["methods", "kdd"], ["unknown method 'kdd': did you mean 'kd'?"]),
        (["methods", "kd", "cwd"], ["expected options such as --name value, found cwd"]),
        (["demo", "--metod", "kd"], ["unknown key 'metod': did you mean 'method'?"]),
    ],
)
def test_bad_commands(capfd: pytest.CaptureFixture[str], arguments: list[str], told: list[str]) -> None:
    fails(capfd, arguments, *told)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "recipe.yaml: No such file or directory"),
        (b"a: [1", "cannot read"),
        (b"\xff\xfe\x00\x81", "cannot read"),
        (b"", "recipe.yaml holds nothing, expected a mapping"),
        (b"- data\n- train\n", "recipe.yaml holds a list, expected a mapping"),
        (b"just words", "recipe.yaml holds a str, expected a mapping"),
        (b"seed: 1\nseed: 2\n", "the key 'seed' stands twice"),
    ],
)
@pytest.mark.parametrize("form", [["{}"], ["--recipe", "{}"], ["--recipe={}"]])
def test_bad_recipe_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, told: str, form: list[str]
) -> None:
    file = tmp_path / "recipe.yaml"
    if content is not None:
        file.write_bytes(content)
    arguments = ["train", *(part.format(file) for part in form), "--output", tmp_path / "run"]
    fails(capfd, arguments, told, "recipe.yaml")
    assert not (tmp_path / "run").exists()


# --------------------------------------------------------------------------------------------- the output folder


def test_output_that_is_taken(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = contents(run)
    arguments = argv("train", data=SCENES, network=STUDENT, train=TRAIN, device="cpu", output=run)
    fails(capfd, arguments, f"output folder {run} already holds a run", "--resume", "--overwrite")
    fails(capfd, [*arguments, "--resume"], f"cannot resume {run} with another recipe", "network was")
    fails(capfd, [*arguments, "--overwrite", "--network", "smp:FPM:resnet18"], "unknown smp architecture")
    fails(capfd, [*arguments, "--overwrite", "--data.count", "0"], "count is 0")
    fails(capfd, [*arguments, "--overwrite", "--train.lr", "-1"], "train.lr is -1.0")
    assert contents(run) == before


def test_output_that_is_something_else(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine too")
    before = contents(tmp_path)
    common = {"data": SCENES, "network": STUDENT, "train": TRAIN, "device": "cpu"}
    for switch in ([], ["--overwrite"], ["--resume"]):
        fails(capfd, [*argv("train", **common, output=tmp_path / "file"), *switch], "file is a file, expected a folder")
        fails(capfd, [*argv("train", **common, output=tmp_path / "folder"), *switch], "not empty and holds no run")
    fails(
        capfd, argv("train", **common, output=tmp_path / "file" / "run"), "cannot write", "one of its folders is a file"
    )
    assert contents(tmp_path) == before


def test_output_that_the_disk_has_no_room_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    arguments = argv("train", data=SCENES, network=STUDENT, train=TRAIN, device="cpu", output=tmp_path / "run")
    fails(capfd, arguments, "cannot write", "run/config.yaml: No space left on device")


def test_damaged_checkpoint(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    (run / "metrics.json").unlink()
    broken(run / "checkpoints" / "last.ckpt")
    arguments = ["train", run / "config.yaml", "--output", run, "--device", "cpu", "--resume"]
    fails(capfd, arguments, f"checkpoint {run / 'checkpoints' / 'last.ckpt'} is damaged")


def test_damaged_run_as_teacher_or_model(tmp_path: Path, finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    broken(run / "model.safetensors")
    arguments = argv("distill", data=SCENES, teacher=run, student=STUDENT, train=TRAIN, output=tmp_path / "new")
    fails(capfd, arguments, f"{run / 'model.safetensors'} is damaged or truncated")
    fails(capfd, ["evaluate", run, "--device", "cpu"], f"{run / 'model.safetensors'} is damaged or truncated")
    (run / "network.json").unlink()
    fails(capfd, ["evaluate", run, "--device", "cpu"], f"folder {run} holds no saved network: network.json is missing")
    assert not (tmp_path / "new").exists()


def test_loss_that_becomes_nan(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    forward = KD.forward

    def poisoned(self: KD, **views: Any) -> dict[str, torch.Tensor]:
        return {name: term * float("nan") for name, term in forward(self, **views).items()}

    monkeypatch.setattr(KD, "forward", poisoned)
    arguments = argv("distill", data=SCENES, teacher=finished, student=STUDENT, train=TRAIN, output=tmp_path / "run")
    fails(capfd, [*arguments, "--method", "[brd, kd]"], "NaN or infinite in epoch 1, first in the term kd")


def test_image_and_mask_helpers_are_sound(tmp_path: Path) -> None:
    """The tree that the damages are done to is one that trains."""
    root = folder_tree(tmp_path / "data", {"train": 4, "val": 2})
    write_image(root / "images/train/more.png")
    write_mask(root / "masks/train/more.png", index_mask(3))
    data = {"dataset": "folder", "root": str(root), "classes": CLASSES, "crop": [32, 32]}
    assert main(argv("train", data=data, network=TINY, train=TRAIN, device="cpu", output=str(tmp_path / "run"))) == 0
