from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from segdistill import UserError
from segdistill.metrics.scores import ConfusionCounts, percent, scores_from_confusion

CLASSES = ["road", "car", "sky"]


def counted(pairs: list[tuple[list[int], list[int]]], classes: int = 3) -> torch.Tensor:
    """The confusion counts of (labels, predictions) batches."""
    counts = ConfusionCounts(classes, 255)
    for labels, predictions in pairs:
        logits = torch.nn.functional.one_hot(torch.tensor(predictions), classes).T[None, :, None].float()
        counts.update(logits, torch.tensor(labels)[None, None])
    return counts.confusion()


def test_by_hand() -> None:
    """labels r r r c c s, predictions r r c c s s."""
    scores = scores_from_confusion(counted([([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 2, 2])]), CLASSES)
    assert scores.iou == pytest.approx({"road": 200 / 3, "car": 100 / 3, "sky": 50})
    assert scores.f1 == pytest.approx({"road": 80, "car": 50, "sky": 200 / 3})
    assert scores.miou == pytest.approx(50)
    assert scores.mean_f1 == pytest.approx((80 + 50 + 200 / 3) / 3)
    assert scores.pixel_accuracy == pytest.approx(400 / 6)
    assert scores.pixels == 6


def test_rows_are_truth() -> None:
    assert counted([([0, 0, 1], [1, 1, 2])]).tolist() == [[0, 2, 0], [0, 0, 1], [0, 0, 0]]


def test_ignored_pixels_count_nowhere() -> None:
    """Whatever is predicted there, also for the classes that are not at stake."""
    plain = counted([([0, 1, 2, 2], [0, 1, 2, 0])])
    ignoring = counted([([0, 1, 255, 2, 255, 2, 255], [0, 1, 0, 2, 1, 0, 2])])
    assert torch.equal(plain, ignoring)


def test_totals_of_the_data_set_not_means_of_images() -> None:
    """A large image all right and a tiny one all wrong: 9 of 10 pixels, not half."""
    batches = [([0] * 9, [0] * 9), ([1], [0])]
    scores = scores_from_confusion(counted(batches, 2), ["road", "car"])
    assert scores.pixel_accuracy == pytest.approx(90)
    assert scores.iou == pytest.approx({"road": 90, "car": 0})
    assert scores.miou == pytest.approx(45)


def test_absent_class_has_no_score() -> None:
    scores = scores_from_confusion(counted([([0, 0, 1, 1], [0, 0, 1, 0])]), CLASSES)
    assert scores.iou["sky"] is None
    assert scores.f1["sky"] is None
    assert scores.miou == pytest.approx((200 / 3 + 50) / 2)
    assert scores.mean_f1 == pytest.approx((80 + 200 / 3) / 2)
    json.dumps(scores.as_dict(), allow_nan=False)


def test_class_that_is_only_predicted_scores_zero() -> None:
    """An invented car is a mistake, not an absent class."""
    scores = scores_from_confusion(counted([([0, 0, 0], [0, 0, 1])]), CLASSES)
    assert scores.iou == {"road": pytest.approx(200 / 3), "car": 0.0, "sky": None}


def test_against_a_count_of_its_own() -> None:
    generator = np.random.default_rng(0)
    labels, predictions = generator.integers(0, 3, 500), generator.integers(0, 3, 500)
    labels[generator.random(500) < 0.2] = 255
    scores = scores_from_confusion(counted([(labels.tolist(), predictions.tolist())]), CLASSES)
    p, t = predictions[labels != 255], labels[labels != 255]
    for index, name in enumerate(CLASSES):
        both, either = np.sum((p == index) & (t == index)), np.sum((p == index) | (t == index))
        assert scores.iou[name] == pytest.approx(100 * both / either)
        precision, recall = both / np.sum(p == index), both / np.sum(t == index)
        assert scores.f1[name] == pytest.approx(100 * 2 * precision * recall / (precision + recall))
    assert scores.pixels == len(t)


def test_counts_beyond_what_single_precision_can_hold() -> None:
    confusion = torch.tensor([[2**40, 1], [1, 1]])
    scores = scores_from_confusion(confusion, ["road", "car"])
    assert scores.pixels == 2**40 + 3
    assert scores.iou["car"] == pytest.approx(100 / 3)


def test_nothing_but_ignored_pixels() -> None:
    with pytest.raises(UserError, match="no valid pixel was counted: every label is the ignore label"):
        scores_from_confusion(counted([([255, 255], [0, 1])]), CLASSES)


def test_sizes_must_agree() -> None:
    with pytest.raises(UserError, match=r"shape \(3, 3\) does not fit 2 classes"):
        scores_from_confusion(torch.ones(3, 3), ["road", "car"])


def test_reset_forgets() -> None:
    counts = ConfusionCounts(2, 255)
    counts.update(torch.zeros(1, 2, 1, 1), torch.zeros(1, 1, 1, dtype=torch.long))
    counts.reset()
    counts.update(torch.zeros(1, 2, 1, 3), torch.ones(1, 1, 3, dtype=torch.long))
    assert counts.confusion().tolist() == [[0, 0], [3, 0]]
    assert counts.confusion().dtype == torch.int64  # single precision cannot count beyond 2^24
    assert not counts.state_dict()


def test_a_class_of_one_pixel() -> None:
    """Found, then lost to another class."""
    assert scores_from_confusion(torch.tensor([[1]]), ["road"]).as_dict() == {
        "miou": 100.0,
        "pixel_accuracy": 100.0,
        "mean_f1": 100.0,
        "iou": {"road": 100.0},
        "f1": {"road": 100.0},
        "pixels": 1,
    }
    assert scores_from_confusion(torch.tensor([[0, 1], [0, 0]]), ["road", "car"]).iou == {"road": 0.0, "car": 0.0}


def test_scores_for_people() -> None:
    assert percent(12.5) == "12.50"
    assert percent(0.0) == "0.00"
    assert percent(None) == "absent"
