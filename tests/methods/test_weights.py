"""Every weight scales its own term and no other; 0 leaves the term out, and what it alone needed is not asked for."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from segdistill import Features
from segdistill.methods import METHODS
from tests.methods.settings import SEVERAL, Setting
from tests.methods.trial import Case, case_of, every_setting, leaves

#: Weights of the methods whose terms are those of other methods.
OF_OTHERS = {"auto": ("logits", "features"), "rdd": ("ce",)}
SINGLE = [name for name in METHODS if name not in {*SEVERAL, *OF_OTHERS}]
#: The weights of each method, by its name.
ALL = SEVERAL | dict.fromkeys(SINGLE, ("weight",)) | OF_OTHERS
WEIGHTS = [(name, weight) for name, weights in SEVERAL.items() for weight in weights]


def made(name: str, **options: Any) -> Case:
    """A method in training, so that memories fill, on images whose four quarters are of four classes."""
    case = case_of(Setting(name, options))
    case.method.train()
    quarters = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(32, 0).repeat_interleave(32, 1)
    case.labels = quarters.expand(2, -1, -1)
    return case


def values(name: str, **options: Any) -> dict[str, float]:
    return {term: value.item() for term, value in made(name, **options).terms().items()}


def reached(case: Case) -> tuple[bool, bool, bool]:
    """Whether a gradient arrives at the student's stages, embedding and logits."""
    student, inputs = leaves(case.student)
    case.value(student=student).backward()
    *stages, embedding, logits = (maps.grad is not None and bool(maps.grad.abs().sum() > 0) for maps in inputs)
    return any(stages), embedding, logits


def test_every_weight_is_known_here() -> None:
    ours = {name: values(name).keys() for name in SEVERAL}
    assert {name: set(terms) for name, terms in ours.items()} == {name: set(terms) for name, terms in SEVERAL.items()}
    for name in SINGLE:
        assert len(values(name)) == 1


@pytest.mark.parametrize(("name", "weight"), [*WEIGHTS, *((name, "weight") for name in SINGLE)])
def test_a_weight_scales_its_own_term(name: str, weight: str) -> None:
    before = values(name)
    after = values(name, **{weight: 3 * METHODS[name]().hyper_parameters()[weight]})
    for term, value in before.items():
        assert value > 0
        assert after[term] == pytest.approx(3 * value if weight in (term, "weight") else value, rel=1e-5)


@pytest.mark.parametrize(("name", "weight"), WEIGHTS)
def test_a_term_alone_needs_what_it_reads(name: str, weight: str) -> None:
    alone = {other: 0.0 for other in SEVERAL[name] if other != weight}
    case = made(name, **alone)
    method, teacher = case.method, Watched.of(case.teacher)
    shown = vars(teacher).setdefault("read", set())
    terms = case.terms(teacher=teacher)
    assert set(terms) == {weight}
    assert shown == {one for one in ("stages", "embedding", "logits") if getattr(method, f"needs_{one}")}
    assert reached(case) == (method.needs_stages, method.needs_embedding, method.needs_logits)
    if not method.needs_labels:
        torch.testing.assert_close(made(name, **alone).terms(labels=None), terms)


@pytest.mark.parametrize(("name", "weight"), WEIGHTS)
def test_without_a_weight_its_term_is_gone(name: str, weight: str) -> None:
    case = made(name, **{weight: 0.0})
    method = case.method
    assert set(case.terms()) == set(SEVERAL[name]) - {weight}
    assert reached(case) == (method.needs_stages, method.needs_embedding, method.needs_logits)


class Watched(Features):
    """Features that know what was read of them."""

    def __getattribute__(self, name: str) -> Any:
        if name in {"stages", "embedding", "logits"}:
            vars(self).setdefault("read", set()).add(name)
        return super().__getattribute__(name)

    @classmethod
    def of(cls, features: Features) -> Watched:
        return cls(features.stages, features.embedding, features.logits)


def labels_matter(case: Case) -> bool:
    """Whether the terms are other ones, or none, without labels."""
    other = copy.deepcopy(case)  # random numbers are those of the first call
    terms = case.terms()
    try:
        without = other.terms(labels=None)
    except (AssertionError, AttributeError):
        return True
    return without.keys() != terms.keys() or any(not terms[name].equal(without[name]) for name in terms)


@every_setting
def test_what_is_declared_as_needed_is_what_is_read(setting: Setting) -> None:
    """As it is, and with each of its weights set to 0 in turn."""
    for zero in (None, *ALL[setting.name]):
        options = setting.options if zero is None else setting.options | {zero: 0.0}
        if setting.name == "auto" and not any(options.get(one, 1.0) for one in ALL["auto"]):
            continue  # refused
        case = case_of(Setting(setting.name, options))
        method, student, teacher = case.method, Watched.of(case.student), Watched.of(case.teacher)
        copy.deepcopy(method)(student=student, teacher=teacher, labels=case.labels, valid=case.valid)
        needed = {name for name in ("stages", "embedding", "logits") if getattr(method, f"needs_{name}")}
        assert vars(student).get("read", set()) == needed, zero
        assert vars(teacher).get("read", set()) == needed | ({"logits"} if method.needs_teacher_logits else set()), zero
        assert labels_matter(case) == method.needs_labels, zero
