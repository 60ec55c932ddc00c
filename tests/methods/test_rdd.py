"""RDD: what its weights are, and what they do to another method."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segdistill import UserError
from segdistill.methods import METHODS, RDD
from segdistill.methods.building import build_methods
from tests.methods.scene import built, networks


@pytest.fixture
def labelled(case: dict[str, Any]) -> dict[str, Any]:
    blocks = torch.randint(0, 6, (2, 9, 9), generator=torch.Generator().manual_seed(4))
    blocks[blocks == 5] = 255
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return case | {"labels": labels, "valid": case["valid"] & (labels != 255)}


@pytest.mark.parametrize("warmup", [0, 10])
def test_kd_and_cross_entropy_become_weighted_means(labelled: dict[str, Any], warmup: int) -> None:
    terms = built(RDD(warmup=warmup, threshold=0.3, ce=2.0))(**labelled)
    log_x, log_t = (labelled[role].logits.log_softmax(1) for role in ("student", "teacher"))
    weights, kd, ce = [], [], []
    for b, i, j in torch.ones(2, 9, 9).nonzero().tolist():
        y = int(labelled["labels"][b, 8 * i, 8 * j])
        if not labelled["valid"][b, 8 * i, 8 * j]:
            continue
        x, t = log_x[b, :, i, j], log_t[b, :, i, j]
        hard = [float(log[y].exp()) <= 0.3 for log in (x, t)]
        weights.append(float((t.exp() * t).sum().exp()) if warmup else float(hard[0] != hard[1]))
        kd.append(float((t.exp() * (t - x)).sum()))
        ce.append(float(-x[y]))
    mean = lambda values: sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)  # noqa: E731
    assert terms["logits"].item() == pytest.approx(mean(kd), rel=1e-5)
    assert terms["ce"].item() == pytest.approx(2 * mean(ce), rel=1e-5)


def test_the_second_stage_begins_after_the_warm_up(labelled: dict[str, Any]) -> None:
    method = built(RDD(warmup=2)).train()
    values = [method(**labelled)["logits"].item() for _ in range(4)]
    assert values[0] == values[1] != values[2] == values[3]
    again = built(RDD(warmup=2))
    again.load_state_dict(method.state_dict())
    assert again(**labelled)["logits"].item() == values[3]
    assert values[3] == pytest.approx(built(RDD(warmup=0))(**labelled)["logits"].item())


@pytest.mark.parametrize("name", ["feature", "dkd", "lskd", "dist", "mgd", "ifvd"])
def test_other_methods_are_weighed(labelled: dict[str, Any], name: str) -> None:
    torch.manual_seed(0)
    weighed = built(RDD(method=name, warmup=10))(**labelled)
    torch.manual_seed(0)
    plain = built(METHODS[name]())(**labelled)
    assert set(weighed) == set(plain)
    assert any(weighed[term].item() != pytest.approx(plain[term].item(), rel=1e-3) for term in plain)


def test_a_pixel_is_hard_up_to_the_threshold_itself(labelled: dict[str, Any]) -> None:
    """A student that is sure of every label gives it a probability of exactly 1."""
    labels = torch.zeros(2, 72, 72, dtype=torch.long)
    student, teacher = (labelled[role] for role in ("student", "teacher"))
    sure, unsure = torch.zeros_like(student.logits), torch.zeros_like(teacher.logits)
    sure[:, 0] = 1000.0
    case = labelled | {
        "labels": labels,
        "student": type(student)(student.stages, student.embedding, sure),
        "teacher": type(teacher)(teacher.stages, teacher.embedding, unsure),
    }
    assert built(RDD(threshold=1.0, warmup=0))(**case)["logits"].item() == 0, "hard for both"
    assert built(RDD(threshold=0.99, warmup=0))(**case)["logits"].item() > 1


def test_a_recipe_writes_it_down() -> None:
    (method,) = build_methods({"rdd": {"method": "dkd", "options": {"non_target": 2.0}, "warmup": 5}})
    assert isinstance(method, RDD)
    assert method.weighed.hyper_parameters()["non_target"] == 2.0
    assert build_methods({"rdd": method.hyper_parameters()})[0].hyper_parameters() == method.hyper_parameters()


def test_what_cannot_be_weighed_is_told() -> None:
    with pytest.raises(UserError, match="rdd: method 'cwd' has no mean over pixels"):
        RDD(method="cwd").build(*networks())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown method 'kdd': did you mean"):
        RDD(method="kdd")
    with pytest.raises(UserError, match=r"unknown key in method kd: 'weigth': did you mean 'weight'"):
        RDD(options={"weigth": 1})
    with pytest.raises(UserError, match="kd: weight is -1"):
        RDD(options={"weight": -1})
    with pytest.raises(UserError, match=r"rdd: threshold is 1\.5, expected a probability"):
        RDD(threshold=1.5)
