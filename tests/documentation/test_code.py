"""Every Python block of a page runs as it stands, and every YAML block is a recipe."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from segdistill import Distiller
from segdistill.recipe.data_keys import check_keys
from segdistill.recipe.recipes import DistillRecipe
from tests.documentation.pages import PAGES, ROOT, blocks, name_of, text_of
from tests.tiny import tiny_network

WITH_CODE = [page for page in PAGES if blocks(page, "python")]
WITH_YAML = [page for page in PAGES if blocks(page, "yaml")]


def run(page: Path) -> dict[str, Any]:
    """Run a page's blocks one after another in one namespace, and return it."""
    names: dict[str, Any] = {"__name__": "mine"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec", dont_inherit=True), names)
    return names


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds what the pages speak of: a picture, an exported file, a run's history."""
    monkeypatch.chdir(tmp_path)
    if "onnxruntime" in page.read_text():
        pytest.importorskip("onnxruntime")
        write_model(tmp_path / "model.onnx")
    Image.new("RGB", (24, 16)).save("photo.jpg")
    if "RunFolder(" in page.read_text():
        run_folder = tmp_path / "runs" / "student"
        run_folder.mkdir(parents=True)
        (run_folder / "history.csv").write_text("epoch,val/miou\n1,40.0\n2,\n")
    run(page)


def write_model(file: Path) -> None:
    """Write a file that takes and gives what those of `segdistill export` do: the largest channel is the class."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["images"], ["float"], to=kinds.FLOAT),
        helper.make_node("ArgMax", ["float"], ["class"], axis=1, keepdims=0),
        helper.make_node("Cast", ["class"], ["labels"], to=kinds.UINT8),
    ]
    given = helper.make_tensor_value_info("images", kinds.UINT8, ["B", 3, "H", "W"])
    gives = helper.make_tensor_value_info("labels", kinds.UINT8, ["B", "H", "W"])
    graph = helper.make_graph(nodes, "argmax", [given], [gives])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def test_own_method_teaches() -> None:
    pull = run(ROOT / "docs/how-to/add-a-method.md")["Pull"]
    distiller = Distiller(tiny_network(seed=1), tiny_network(seed=2), method=pull(strength=2.0))
    out = distiller(torch.rand(2, 3, 32, 32), torch.zeros(2, 32, 32, dtype=torch.int64))
    assert out.terms["pull"] > 0


def test_own_data_set_is_one() -> None:
    halves = run(ROOT / "docs/how-to/use-your-own-classes.md")["Halves"](split="train")
    image, labels = halves[3]
    assert (len(halves), image.shape, labels.unique().tolist()) == (4, (3, 32, 32), [0, 1])


def test_own_training_loop_is_ten_lines() -> None:
    loop = next(block for block in blocks(ROOT / "README.md", "python") if "Distiller" in block)
    assert len([line for line in loop.splitlines() if line.strip()]) == 10


@pytest.mark.parametrize("page", WITH_YAML, ids=name_of)
def test_yaml_is_a_recipe(page: Path) -> None:
    for block in blocks(page, "yaml"):
        values = yaml.safe_load(block)
        data = values.pop("data", None)
        for one in [data] if data is None or "train" not in data else [data["train"], data["val"]]:
            if one is not None and not str(one.get("dataset")).startswith("python:"):
                check_keys(one)
        DistillRecipe.from_dict({"data": {}, "teacher": "x", "student": "y", **values})


def test_there_are_many() -> None:
    assert len(WITH_CODE) >= 6
    assert len(WITH_YAML) >= 4
    assert not [name_of(page) for page in PAGES if re.search(r"```(py|console|shell|yml)\b", text_of(page))]
