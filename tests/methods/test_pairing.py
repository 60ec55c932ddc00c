"""Which methods a teacher of features alone, or of class scores alone, can teach."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import pytest
from torch import Tensor

from segdistill import UserError
from segdistill.methods import BRD, IFVD, KD, METHODS, Feature, Method
from segdistill.methods.pairing import check_shown, check_taken
from segdistill.methods.unlabelled import check_features_alone, of_features_alone
from segdistill.networks.features import Features, NetworkInfo
from tests.tiny import tiny_network


@functools.cache
def info_of(width: int) -> NetworkInfo:
    return tiny_network(width).info


def teacher_of(shown: str) -> NetworkInfo:
    info = info_of(8)
    if shown == "features":
        return dataclasses.replace(info, num_classes=0, logits=dataclasses.replace(info.logits, channels=0))
    if shown == "scores":
        return dataclasses.replace(info, stages=(), embedding=dataclasses.replace(info.embedding, channels=0))
    return info


def is_taught(method: Method, teacher: NetworkInfo) -> bool:
    try:
        check_shown(method, teacher)
        method.build(info_of(4), teacher)
        check_taken(method, teacher)
    except UserError:
        return False
    return True


@pytest.mark.parametrize(("shown", "refused"), [("features", KD()), ("scores", Feature())])
def test_the_methods_named_are_those_that_it_can_teach(shown: str, refused: Method) -> None:
    teacher = teacher_of(shown)
    with pytest.raises(UserError, match="methods for it are ") as told:
        check_shown(refused, teacher)
    alone, _, without_kd = re.split("methods for it are ", str(told.value))[1].partition(", and with kd: 0 ")
    assert [name for name, kind in METHODS.items() if is_taught(kind(), teacher)] == alone.split(", ")
    others: list[Any] = [METHODS[name] for name in without_kd.split(", ") if name]
    assert all(is_taught(kind(kd=0.0), teacher) for kind in others)
    assert (BRD in others) == (shown == "features")
    assert all(is_taught(kind(), teacher_of("all")) for kind in METHODS.values())


class Taking(Method):
    """Takes what it does not say that it needs."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names

    def teacher_outputs(self, teacher: Features) -> dict[str, Tensor]:
        return dict.fromkeys(self.names, teacher.logits)

    def forward(self, **_: Any) -> dict[str, Tensor]:
        return {}


@pytest.mark.parametrize(
    ("names", "shown", "is_fine"),
    [
        (["logits"], "features", False),
        (["logits"], "scores", True),
        (["embedding.pooled"], "scores", False),
        (["stages.1"], "scores", False),
        (["logits", "embedding"], "all", True),
        (["embedding", "stages.1"], "features", True),
    ],
)
def test_what_a_method_takes_without_a_word_is_found(names: list[str], shown: str, is_fine: bool) -> None:
    assert is_taught(Taking(*names), teacher_of(shown)) == is_fine


def test_a_pre_training_takes_methods_of_features_alone() -> None:
    check_features_alone([Feature(), BRD(kd=0.0)])
    for method, needed in ((KD(), "class scores"), (IFVD(kd=0.0), "labels"), (Feature(balance="teacher"), "class")):
        with pytest.raises(
            UserError, match=rf"method {method.name} needs {needed}.*: {', '.join(of_features_alone())}"
        ):
            check_features_alone([Feature(), method])
