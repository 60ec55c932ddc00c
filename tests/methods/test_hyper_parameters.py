"""Hyper-parameters of every method: written down again, and refused where impossible."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

from segdistill import UserError
from segdistill.methods import METHODS
from tests.methods.settings import Setting
from tests.methods.trial import every_setting


@every_setting
def test_hyper_parameters_make_the_method_again(setting: Setting) -> None:
    method = setting.make()
    again = type(method)(**method.hyper_parameters())
    assert again.hyper_parameters() == method.hyper_parameters()


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        ("kd", {"temperature": 0.0}, "kd: temperature is 0.0, expected a number above 0"),
        ("kd", {"weight": -1.0}, "kd: weight is -1.0, expected 0 or more"),
        ("kd", {"balance": "median"}, "kd: balance is 'median', expected 'labels', 'teacher' or null"),
        ("kd", {"balance": "teacher", "adjust": 1.5}, "kd: adjust is 1.5, expected 0 to 1, or null"),
        ("kd", {"balance": "labels", "adjust": 0.5}, "kd: adjust is 0.5, which needs balance: teacher"),
        ("kd", {"balance": "teacher", "teacher_adjust": 1.0}, "kd: teacher_adjust is 1.0, which needs adjust"),
        ("feature", {"distance": "l1"}, "feature: distance is 'l1', expected 'mse', 'cosine' or 'normalised'"),
        ("feature", {"preset": "fitnets"}, "feature: preset is 'fitnets', expected 'normalised' or 'fitnet'"),
        ("auto", {"logits": 0.0, "features": 0.0}, "auto: logits and features are both 0, expected a weight above 0"),
        ("auto", {"adjust": -0.5}, "auto: adjust is -0.5, expected 0 to 1, or null"),
        ("auto", {"balance": None, "teacher_adjust": 1.0}, "auto: teacher_adjust is 1.0, which needs adjust"),
        ("auto", {"features_first": 1.0}, "auto: features_first is 1.0, expected at least 0 and below 1"),
        ("cwd", {"temperature": float("nan")}, "cwd: temperature is nan, expected a number above 0"),
        ("ka", {"latent_channels": -3}, "ka: latent_channels is -3, expected a number above 0"),
        ("ka", {"lr": -1.0}, "ka: lr is -1.0, expected a number above 0"),
        ("brd", {"boundary": -1.0}, "brd: boundary is -1.0, expected 0 or more"),
        ("brd", {"operator": "canny"}, "operator is 'canny', expected 'pool', 'laplacian' or 'sobel'"),
        ("dkd", {"temperature": 0.0}, "dkd: temperature is 0.0, expected a number above 0"),
        ("dkd", {"non_target": -1.0}, "dkd: non_target is -1.0, expected 0 or more"),
        ("dist", {"across": "crop"}, "dist: across is 'crop', expected 'image' or 'batch'"),
        ("cirkd", {"pixel_memory": 0}, "cirkd: pixel_memory is 0, expected a number above 0"),
        ("cirkd", {"preset": "authors"}, "cirkd: preset is 'authors', expected 'bounded' or 'paper'"),
        ("mgd", {"masked": 1.0}, "mgd: masked is 1.0, expected at least 0 and below 1"),
        ("mgd", {"masked": -0.1}, "mgd: masked is -0.1, expected at least 0 and below 1"),
        ("afdcd", {"masked": float("nan")}, "afdcd: masked is nan, expected at least 0 and below 1"),
        ("afdcd", {"temperature": -1.0}, "afdcd: temperature is -1.0, expected a number above 0"),
        ("idd", {"position": -1.0}, "idd: position is -1.0, expected 0 or more"),
        ("maskd", {"tokens": 0}, "maskd: tokens is 0, expected a number above 0"),
        ("bpkd", {"width": 0}, "bpkd: width is 0, expected a number above 0"),
        ("attnfd", {"weight": -2.0}, "attnfd: weight is -2.0, expected 0 or more"),
        ("lskd", {"temperature": 0.0}, "lskd: temperature is 0.0, expected a number above 0"),
        ("drd", {"channel": float("inf")}, "drd: channel is inf, expected 0 or more"),
        ("drd", {"normalize": "l2"}, "normalize is 'l2', expected 'cosine' or 'softmax'"),
    ],
)
def test_impossible_hyper_parameters(kind: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        METHODS[kind](**values)


def arguments(*kinds: str) -> list[tuple[str, str]]:
    """Method and argument of every annotation that names one of the types ``kinds``."""
    return [
        (name, argument)
        for name, kind in METHODS.items()
        for argument, parameter in inspect.signature(kind).parameters.items()
        if any(re.search(rf"\b{one}\b", str(parameter.annotation)) for one in kinds)
    ]


@pytest.mark.parametrize(("name", "argument"), arguments("int", "float"))
def test_no_number_may_be_below_zero(name: str, argument: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: {argument} is -1"):
        METHODS[name](**{argument: -1})


@pytest.mark.parametrize(("name", "argument"), [one for one in arguments("int", "float") if "temperature" in one[1]])
def test_no_temperature_may_be_zero(name: str, argument: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: {argument} is 0"):
        METHODS[name](**{argument: 0.0})


@pytest.mark.parametrize(("name", "argument"), arguments("Literal", "Balance"))
def test_every_choice_is_checked(name: str, argument: str) -> None:
    with pytest.raises(UserError, match=rf"{name}: .*{argument}|{argument}.*{name}"):
        METHODS[name](**{argument: "nonsense"})


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("value", [{}, "much", None], ids=repr)
def test_a_number_of_another_type_is_named(name: str, value: Any) -> None:
    kind = METHODS[name]
    numbers = [one.name for one in inspect.signature(kind).parameters.values() if one.annotation in ("float", "int")]
    for number in numbers:
        with pytest.raises(UserError, match=f"{kind.__name__}: {number}"):
            kind(**{number: value})


def test_an_argument_that_a_method_lacks_is_left_to_python() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'heat'"):
        METHODS["kd"](heat=3)
