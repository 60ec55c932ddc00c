"""Every recipe under recipes/ runs, on a miniature of its data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segdistill.cli.main import main

RECIPES = Path(__file__).parent.parent / "recipes"
FAMILIES = sorted({recipe.parent for recipe in RECIPES.glob("*/*.yaml")})


def miniature(data: dict[str, object], root: Path) -> None:
    """Two images a split in the layout of the recipe's data set."""
    folders = {"folder": ("images/{}", "masks/{}"), "camvid": ("{}", "{}annot")}[str(data["dataset"])]
    generator = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(2):
            for folder, shape in zip(folders, ((64, 96, 3), (64, 96)), strict=True):
                path = root / folder.format(split) / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                highest = 255 if len(shape) == 3 else 7
                Image.fromarray(generator.integers(0, highest, shape, dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family.name == "camvid-50" else pytest.mark.slow) for family in FAMILIES],
    ids=lambda family: family.name,
)
def test_recipes_of_a_family(family: Path, tmp_path: Path) -> None:
    data = yaml.safe_load((family / "teacher.yaml").read_text())["data"]
    miniature(data, tmp_path / "data")
    small = ["--data.root", str(tmp_path / "data"), "--data.crop", "[64, 96]", "--train.epochs", "1", "--quiet"]
    small += ["--train.batch_size", "2"] + (["--data.resize", "[64, 96]"] if "resize" in data else [])
    for name in ("teacher", "alone", "distill"):
        recipe = family / f"{name}.yaml"
        command = name if name == "distill" else "train"
        teacher = ["--teacher", str(tmp_path / "teacher")] if command == name else []
        more = _unlabelled(recipe, tmp_path / "more")
        assert main([command, str(recipe), "--output", str(tmp_path / name), *small, *teacher, *more]) == 0
        assert (tmp_path / name / "metrics.json").exists()


def test_there_are_recipes() -> None:
    assert [family.name for family in FAMILIES] == ["camvid", "camvid-50", "idd-lite", "idd-lite-tenth"]


def _unlabelled(recipe: Path, folder: Path) -> list[str]:
    """Two further images, where the recipe wants images without labels."""
    if "unlabelled" not in yaml.safe_load(recipe.read_text())["data"]:
        return []
    folder.mkdir()
    for index in range(2):
        Image.new("RGB", (96, 64), (index, 20, 30)).save(folder / f"{index}.png")
    return ["--data.unlabelled", str(folder)]
