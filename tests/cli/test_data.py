"""`segdistill data check` and `segdistill data preview` as a user meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from segdistill.cli.main import main
from tests.cli.failing import fails
from tests.inspection.trees import folder_data, sound_tree

KEYWORDS = ["--dataset", "folder", "--classes", "[road, roof, tree]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return sound_tree(tmp_path / "data")


@pytest.fixture
def recipe(tmp_path: Path, root: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"data": folder_data(root, crop=[32, 32]), "network": "x", "train": {"lr": 1}}))
    return file


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_overview(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", *arguments])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    for command in ("check", "preview", "stats"):
        assert f"  {command} " in printed
        assert f"segdistill data {command} --dataset" in printed


@pytest.mark.parametrize(
    ("command", "option"), [("check", "--output"), ("preview", "--augmented"), ("stats", "--output")]
)
def test_help(command: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["data", command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: segdistill data {command}")
    assert option in printed
    assert f"examples:\n  segdistill data {command}" in printed


def test_check_of_sound_data(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *KEYWORDS, "--root", str(root)]) == 0
    assert "0 errors, 0 warnings, 0 notes" in capsys.readouterr().out


def test_check_of_spoilt_data(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "masks/val/val0.png").unlink()
    report = tmp_path / "report.json"
    assert main(["data", "check", *KEYWORDS, f"--root={root}", "-o", str(report), "--quiet"]) == 1
    assert capsys.readouterr() == ("", "")
    (finding,) = json.loads(report.read_text())["findings"]
    assert (finding["kind"], finding["files"]) == ("missing-mask", [f"{root}/images/val/val0.png"])


def test_recipe_and_options_after_it(recipe: Path, root: Path, tmp_path: Path) -> None:
    assert main(["data", "check", str(recipe)]) == 0
    sound_tree(tmp_path / "other")
    (tmp_path / "other/images/train/train0.png").write_bytes(b"")
    for form in ("--root", "--data.root"):
        assert main(["data", "check", str(recipe), form, str(tmp_path / "other"), "--quiet"]) == 1


def test_preview(recipe: Path, tmp_path: Path) -> None:
    output = tmp_path / "sheet.png"
    arguments = ["data", "preview", str(recipe), "--output", str(output), "--count", "2", "--quiet"]
    assert main(arguments) == 0
    plain = output.read_bytes()
    assert Image.open(output).format == "PNG"
    assert main([*arguments, "--augmented", "--jitter", "0.4"]) == 0
    assert output.read_bytes() != plain


def test_stats(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bands.json"
    assert main(["data", "stats", str(recipe), "--resize", "[24, 32]", "--output", str(output)]) == 0
    values = json.loads(output.read_text())
    printed = capsys.readouterr().out
    for number in [*values["mean"], *values["std"]]:
        assert f"{number:.5g}" in printed
    assert f"4 train images, {values['pixels']} pixels counted; 0 % of all are ignored, 0 % hold no data" in printed
    assert values["pixels"] == 4 * 24 * 32
    assert f"--data.statistics {output}" in printed


@pytest.mark.parametrize("command", ["check", "preview", "stats"])
def test_wrong_usage(command: str, root: Path, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    fails(capfd, ["data", "chek"], "unknown command 'data chek': did you mean 'data check'?")
    fails(capfd, ["data", command], "data")
    fails(
        capfd,
        ["data", command, "--root", root],
        "the key 'dataset' is missing; expected folder, for images and masks of your own",
    )
    fails(capfd, ["data", command, *KEYWORDS, "--rot", root], "unknown key in data: 'rot': did you mean 'root'?")
    fails(capfd, ["data", command, *KEYWORDS, "--root", "nowhere"], "nowhere does not exist")
    fails(capfd, ["data", command, *KEYWORDS, "--root", root, "--ignore", "x"], "data: ignore", "found x")
    fails(capfd, ["data", command, "nowhere.yaml"], "cannot read nowhere.yaml")
    (tmp_path / "empty.yaml").write_text("network: x\n")
    fails(capfd, ["data", command, tmp_path / "empty.yaml"], "has no mapping under the key 'data'")
