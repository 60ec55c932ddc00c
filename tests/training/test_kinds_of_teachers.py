"""Teachers of three kinds at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segdistill
from tests.networks.specs import MASK2FORMER
from tests.training.runs import SCENES, distill_tiny, fingerprint
from tests.training.test_resume import Killed, history_without_times, stop_in

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

#: For a universal segmenter, whose normalisation wants more than one position of stride 32.
LARGER: dict[str, Any] = SCENES | {"size": [64, 64], "crop": [64, 64]}


def onnx_file(path: Path) -> Path:
    """Scores of six classes at half the images' size."""
    numbers = np.random.default_rng(0).normal(size=(6, 3, 2, 2)).astype(np.float32)
    kinds = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["images", "weights"], ["scores"], kernel_shape=[2, 2], strides=[2, 2])],
        "scores",
        [onnx.helper.make_tensor_value_info("images", kinds, ["batch", 3, "height", "width"])],
        [onnx.helper.make_tensor_value_info("scores", kinds, ["batch", 6, "rows", "columns"])],
        [onnx.numpy_helper.from_array(numbers, "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, path)
    return path


def three_teachers(folder: Path, teacher: Path) -> list[str]:
    """A run, an ONNX file and a universal segmenter."""
    torch.manual_seed(0)
    segdistill.load_network(MASK2FORMER, num_classes=6).save(folder / "universal")
    return [str(teacher), str(onnx_file(folder / "scores.onnx")), str(folder / "universal")]


def test_three_kinds_of_teachers_at_once_are_resumed(
    tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"teacher": three_teachers(tmp_path, teacher), "method": "kd", "epochs": 2}
    options["data"] = LARGER
    whole = distill_tiny(tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=1, batch=1)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "killed", **options)
    resumed = distill_tiny(tmp_path / "killed", **options, resume=True)
    assert history_without_times(resumed) == history_without_times(whole)
    assert fingerprint(resumed) == fingerprint(whole)
