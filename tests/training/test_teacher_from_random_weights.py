"""A teacher that began with random weights is named once, before the first epoch."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

import segdistill
from segdistill.recipe.teachers import GivenTeacher
from segdistill.training.loading import hint_of_random_start
from tests.training.runs import FAST, SCENES, STUDENT, train_tiny

SMALL = "smp:Unet:resnet18?encoder_depth=3&decoder_channels=[16, 8, 8]"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"network": "smp:FPN:resnet18"}, True),
        ({"network": "smp:FPN:resnet18", "init_weights": None}, True),
        ({"network": "torchvision:fcn_resnet50", "init_weights": None}, True),
        ({"network": "smp:FPN:resnet18", "init_weights": "imagenet"}, False),
        ({"network": "smp:FPN:resnet18", "init_weights": {"encoder": "a.safetensors"}}, False),
        ({"network": "transformers:someone/segformer", "init_weights": None}, False),
        ({"network": "python:mine:build", "init_weights": None}, False),
        ({"student": "smp:FPN:resnet18", "teacher": "elsewhere", "init_weights": None}, False),
    ],
)
def test_only_where_it_is_known(tmp_path: Path, config: dict[str, object], told: bool) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    hint = hint_of_random_start([GivenTeacher(tmp_path)])
    assert hint.startswith(f"hint: teacher {tmp_path} began with random weights") is told
    assert bool(hint) is told
    assert hint_of_random_start([GivenTeacher("smp:FPN:resnet18")]) == ""


def test_distill_says_it_once_and_a_comparison_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_tiny(tmp_path / "teacher", SMALL, epochs=1)
    shared = {"data": SCENES, "teacher": tmp_path / "teacher", "student": STUDENT, "train": FAST, "device": "cpu"}
    segdistill.distill(**shared, output=tmp_path / "run")
    assert capsys.readouterr().out.count("began with random weights") == 1
    segdistill.compare(**shared, methods="none,kd", output=tmp_path / "compare")
    assert "began with random weights" not in capsys.readouterr().out
