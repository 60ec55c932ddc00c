"""Keys, names, values and commands that a user gets wrong: one sentence, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.failing import CLASSES, TINY, TRAIN, argv, fails, shell
from tests.datasets.trees import folder_tree
from tests.training.runs import SCENES, STUDENT

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
        (b"seed: 1\nseed: 2\n", "recipe.yaml: the key 'seed' stands twice in line 2, column 1"),
        (b"data:\n\tdataset: folder\n", "in line 2, column 1; indent with blanks, not with tabs"),
        (b"seed: 1\n---\nseed: 2\n", "expected a single document in the stream but found another document in line 2"),
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


def test_a_folder_without_a_recipe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fails(
        capfd,
        ["train", tmp_path, "--output", tmp_path / "run"],
        "expected a recipe or the folder of a run; a folder of images and masks is named by data: {dataset: folder",
    )
    assert not (tmp_path / "run").exists()
