"""Runs on mixed pictures in strong colours: live, from a teacher cache, continued after a stop, without a teacher."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from segdistill import UserError
from segdistill.data.loading import TrainingSamples
from segdistill.datasets.base import UNLABELLED
from segdistill.recipe.data import build_data
from tests.training.runs import SCENES, distill_tiny, fingerprint, train_tiny
from tests.training.test_resume import Killed, stop_in

MIXED: dict[str, Any] = SCENES | {"mix": {"cutmix": 0.3, "classmix": 0.3, "mixup": 0.4}, "strong": 0.8}


def test_a_teacher_cache_holds_what_the_teacher_says_of_the_mixed_picture(tmp_path: Path, teacher: Path) -> None:
    live = distill_tiny(tmp_path / "live", teacher, data=MIXED, method="kd", loss="ce", views=2)
    cache = tmp_path / "cache"
    kept = distill_tiny(tmp_path / "kept", teacher, data=MIXED, method="kd", loss="ce", views=2, teacher_cache=cache)
    for ours, theirs in zip(live.read_history(), kept.read_history(), strict=True):
        for name in ("loss/task", "loss/kd"):
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=1e-2)
    again = distill_tiny(tmp_path / "again", teacher, data=MIXED, method="kd", loss="ce", views=2, teacher_cache=cache)
    assert fingerprint(again) == fingerprint(kept)
    for key, value in (("mix", {"cutmix": 1.0}), ("strong", 0.4)):
        data = MIXED | {key: value}
        with pytest.raises(UserError, match=key):
            distill_tiny(tmp_path / "other", teacher, data=data, method="kd", loss="ce", views=2, teacher_cache=cache)


def test_a_stopped_run_goes_on_as_it_would_have(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = distill_tiny(tmp_path / "whole", teacher, data=MIXED)
    with monkeypatch.context() as patch:
        stop_in(patch, epoch=1, batch=1)
        with pytest.raises(Killed):
            distill_tiny(tmp_path / "broken", teacher, data=MIXED)
    assert fingerprint(distill_tiny(tmp_path / "broken", teacher, data=MIXED, resume=True)) == fingerprint(whole)


def test_a_student_alone_trains_on_the_same_pictures(tmp_path: Path) -> None:
    """Where mixup leaves no label, nothing is learnt and nothing fails."""
    data = SCENES | {"mix": {"mixup": 1.0}}
    built = build_data(data)
    samples = TrainingSamples(built.train, built.augmentation, seed=0)
    shown = torch.stack([samples[0, index][1] for index in range(len(samples))])
    assert 0.1 < (shown == UNLABELLED).float().mean() < 0.9
    run = train_tiny(tmp_path / "alone", data=data)
    assert all(math.isfinite(float(row["loss/task"])) for row in run.read_history())
    assert run.read_config()["data"]["mix"] == {"mixup": 1.0}


def test_an_overfitted_run_mixes_nothing() -> None:
    assert build_data(MIXED, overfit=2).augmentation.mix == {}
