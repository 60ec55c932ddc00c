"""What every method must do, whichever pair of networks and whatever features it is given.

A new method is added to `tests/methods/settings.py`, once for each of its options that changes the computation.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from segdistill import Distiller, Features, Network, Tap, UserError, load_network, methods
from segdistill.methods import METHODS, Method
from segdistill.networks.features import NetworkInfo
from tests.methods.settings import SETTINGS, Setting
from tests.tiny import tiny_network

# Strides of student and teacher, student's width, image size: finer, equal, coarser; 16 against 8 and 32 against 4.
PAIRS = [
    (8, 8, 4, (64, 64)),
    (16, 8, 4, (97, 131)),
    (32, 4, 3, (64, 64)),
    (4, 32, 6, (97, 131)),
    (8, 16, 4, (64, 96)),
]
every_setting = pytest.mark.parametrize("setting", SETTINGS, ids=str)


def batch(size: tuple[int, int] = (64, 64), images: int = 2, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(images, 3, *size, generator=generator)
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    return pixels, labels


def distiller_of(setting: Setting, strides: tuple[int, int] = (8, 8), width: int = 4, **options: Any) -> Distiller:
    torch.manual_seed(0)
    student, teacher = strides
    made = Distiller(
        tiny_network(width=8, stride=teacher, seed=1),
        tiny_network(width=width, stride=student, seed=2),
        setting.make(),
        **options,
    )
    made.prepare([batch()[0]])
    return made


def method_terms(out: Any) -> dict[str, Tensor]:
    return {name: term for name, term in out.losses.items() if name != "task"}


# ---- in a Distiller, from images


@every_setting
@pytest.mark.parametrize("pair", PAIRS)
def test_any_pair_and_size_teaches_the_student_alone(
    setting: Setting, pair: tuple[int, int, int, tuple[int, int]]
) -> None:
    student, teacher, width, size = pair
    distiller = distiller_of(setting, (student, teacher), width)
    images, labels = batch(size)
    out = distiller(images, labels)
    terms = method_terms(out)
    assert terms
    assert out.logits.shape == (2, 5, *size)
    assert all(term.shape == () and torch.isfinite(term) and term >= 0 for term in terms.values())
    assert setting.sparse or all(term > 0 for term in terms.values())
    assert out.loss.item() == pytest.approx(sum(term.item() for term in out.terms.values()), rel=1e-6)
    torch.stack(list(terms.values())).sum().backward()
    reached = [p for p in distiller.student.model.stem.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached
    assert all(torch.isfinite(p.grad).all() for p in distiller.parameters() if p.grad is not None)
    assert all(p.grad is None and not p.requires_grad for p in distiller.teacher.parameters())


@every_setting
def test_batch_without_a_valid_pixel_costs_nothing(setting: Setting) -> None:
    distiller = distiller_of(setting)
    images, labels = batch()
    out = distiller(images, torch.full_like(labels, 255))
    assert out.loss.item() == 0
    out.loss.backward()
    gradients = [p.grad for p in distiller.parameters() if p.grad is not None]
    assert all((gradient == 0).all() for gradient in gradients)


@every_setting
def test_images_without_labels_where_none_are_needed(setting: Setting) -> None:
    distiller = distiller_of(setting)
    if setting.make().needs_labels:
        with pytest.raises(UserError, match=f"method {setting.name} needs labels, and this batch has none"):
            distiller(batch()[0])
    else:
        out = distiller(batch()[0])
        assert "task" not in out.terms
        assert out.loss > 0


@every_setting
def test_ignored_pixels_count_only_when_asked_for(setting: Setting) -> None:
    images, labels = batch()
    ignored = labels.clone()
    ignored[:, 32:] = 255
    everywhere = method_terms(distiller_of(setting, ignored="distil")(images, ignored))
    skipping = method_terms(distiller_of(setting)(images, ignored))
    full = method_terms(distiller_of(setting)(images, labels))
    for name, term in full.items():
        if not setting.make().needs_labels:
            assert everywhere[name].item() == pytest.approx(term.item(), rel=1e-5)
        assert skipping[name].item() != pytest.approx(term.item(), rel=1e-4) or (setting.sparse and term == 0)


@every_setting
def test_one_image_one_class(setting: Setting) -> None:
    torch.manual_seed(0)
    networks = tiny_network(8, classes=1, seed=1), tiny_network(4, classes=1, seed=2)
    if setting.several_classes:
        with pytest.raises(UserError, match=f"method {setting.name} .*the student has 1 class and the teacher 1"):
            Distiller(*networks, setting.make())
        return
    distiller = Distiller(*networks, setting.make())
    distiller.prepare([batch()[0]])
    images, labels = batch(images=1, classes=1)
    # Batch normalisation over one position is refused by torch; one image of several positions is not.
    out = distiller(images, labels)
    assert torch.isfinite(out.loss)
    out.loss.backward()


@every_setting
def test_bf16_autocast_is_close(setting: Setting) -> None:
    distiller = distiller_of(setting)
    distiller.eval()
    images, labels = batch()
    full = distiller(images, labels).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        half = distiller(images, labels).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full, rel=0.1)


@every_setting
def test_state_goes_through_a_state_dict(setting: Setting) -> None:
    """What a method has learnt is restored, and nothing of the teacher is in it."""
    first, second = distiller_of(setting), distiller_of(setting)
    images, labels = batch()
    first(images, labels)  # what a method counts or remembers of a batch is part of its state
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    assert first(images, labels).loss.item() == pytest.approx(second(images, labels).loss.item())
    assert not any("teacher" in key for key in first.state_dict())


def test_methods_compose() -> None:
    distiller = Distiller(tiny_network(8, seed=1), tiny_network(4, seed=2), [kind() for kind in METHODS.values()])
    distiller.prepare([batch()[0]])
    out = distiller(*batch())
    assert {name.partition(".")[0] for name in out.terms} == {"task", *METHODS}
    out.loss.backward()


@pytest.mark.parametrize(
    ("teacher", "student"),
    [
        ("smp:PSPNet:resnet18?encoder_depth=5&output_stride=8", "smp:FPN:tu-mobilenetv3_small_050"),
        ("smp:Segformer:mit_b0", "smp:DeepLabV3Plus:mobilenet_v2"),
        ("smp:Unet:resnet18", "smp:Segformer:mit_b0"),
    ],
)
def test_cnn_and_transformer_pairs(teacher: str, student: str) -> None:
    everything = [kind() for kind in METHODS.values()]
    distiller = Distiller(load_network(teacher, num_classes=4), load_network(student, num_classes=4), everything)
    images, labels = batch((96, 64), classes=4)
    distiller.prepare([images])
    out = distiller(images, labels)
    assert torch.isfinite(out.loss)
    out.loss.backward()
    first: nn.Parameter = next(distiller.student.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


# ---- alone, from features


@dataclasses.dataclass
class Case:
    """A built method and everything that it is called with."""

    method: Method
    student: Features
    teacher: Features
    labels: Tensor
    valid: Tensor

    def terms(self, **changes: Any) -> dict[str, Tensor]:
        given = {"student": self.student, "teacher": self.teacher, "labels": self.labels, "valid": self.valid}
        torch.manual_seed(5)
        return self.method(**(given | changes))

    def value(self, **changes: Any) -> Tensor:
        return torch.stack(list(self.terms(**changes).values())).sum()


def case_of(setting: Setting, side: int = 64, images: int = 2) -> Case:
    distiller = distiller_of(setting).eval()
    generator = torch.Generator().manual_seed(0)
    student, teacher = (
        random_features(network, generator, side, images) for network in (distiller.student, distiller.teacher)
    )
    blocks = torch.randint(0, 5, (images, side // 8, side // 8), generator=generator)
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    valid = torch.ones(images, side, side, dtype=torch.bool)
    return Case(distiller.methods[setting.name], student, teacher, labels, valid)


def random_features(network: Network, generator: torch.Generator, side: int, images: int) -> Features:
    """Every position near one of six prototypes, as in an image of few classes: none is only like itself."""

    def maps(tap: Tap) -> Tensor:
        size = (images, side // tap.stride, side // tap.stride)
        prototypes = torch.randn(6, tap.channels, generator=generator)
        members = prototypes[torch.randint(0, 6, size, generator=generator)].permute(0, 3, 1, 2)
        return members + 0.1 * torch.randn(members.shape, generator=generator)

    info = network.info
    return Features(tuple(maps(tap) for tap in info.stages), maps(info.embedding), maps(info.logits))


def changed(features: Features, change: Callable[[Tensor], Tensor]) -> Features:
    return Features(
        tuple(change(stage) for stage in features.stages), change(features.embedding), change(features.logits)
    )


def leaves(features: Features) -> tuple[Features, list[Tensor]]:
    """The same features, to be differentiated by."""
    copy = changed(features, lambda maps: maps.detach().clone(memory_format=torch.preserve_format).requires_grad_())
    return copy, [*copy.stages, copy.embedding, copy.logits]


def value_and_gradients(case: Case, student: Features, **changes: Any) -> tuple[float, list[Tensor]]:
    """The value, and its gradients by the student's features and the method's own parameters."""
    student, inputs = leaves(student)
    parameters = [parameter for parameter in case.method.parameters() if parameter.requires_grad]
    value = case.value(student=student, **changes)
    gradients = torch.autograd.grad(value, [*inputs, *parameters], allow_unused=True)
    return value.item(), [gradient for gradient in gradients if gradient is not None]


@every_setting
def test_value_holds_at_another_crop_size(setting: Setting) -> None:
    """A weight tuned at one crop size holds at another: four copies of a scene cost what one costs.

    Exactly so for most; filters see other neighbours at the seams, and a relation's row has more than four times the
    others.
    """
    if setting.resized is None:
        return
    one = case_of(setting, side=256 if setting.resized > 1e-3 else 64)
    tile = lambda maps: maps.repeat(1, 1, 2, 2)  # noqa: E731
    four = one.terms(
        student=changed(one.student, tile),
        teacher=changed(one.teacher, tile),
        labels=one.labels.repeat(1, 2, 2),
        valid=one.valid.repeat(1, 2, 2),
    )
    for name, term in one.terms().items():
        assert four[name].item() == pytest.approx(term.item(), rel=setting.resized), name


@every_setting
def test_value_holds_at_another_batch_size(setting: Setting) -> None:
    """A batch twice over costs what it costs once; and it is the mean of its images, unless they are related."""
    case = case_of(setting)
    twice = case.terms(
        student=changed(case.student, lambda maps: torch.cat([maps, maps])),
        teacher=changed(case.teacher, lambda maps: torch.cat([maps, maps])),
        labels=torch.cat([case.labels, case.labels]),
        valid=torch.cat([case.valid, case.valid]),
    )
    if not setting.random:
        for name, term in case.terms().items():
            assert twice[name].item() == pytest.approx(term.item(), rel=0.05 if setting.across_batch else 1e-5), name
    if not setting.across_batch and not setting.random and "balance" not in setting.options:
        single = [
            case.value(
                student=changed(case.student, lambda maps, i=i: maps[i : i + 1]),
                teacher=changed(case.teacher, lambda maps, i=i: maps[i : i + 1]),
                labels=case.labels[i : i + 1],
                valid=case.valid[i : i + 1],
            ).item()
            for i in range(2)
        ]
        assert case.value().item() == pytest.approx(sum(single) / 2, rel=1e-5)


@every_setting
def test_equal_features_cost_nothing_where_no_adapter_stands_between(setting: Setting) -> None:
    if setting.zero_when_equal:
        distiller = Distiller(tiny_network(seed=3), tiny_network(seed=3), setting.make()).eval()
        distiller.prepare([batch()[0]])
        assert all(abs(term.item()) < 1e-4 for term in method_terms(distiller(*batch())).values())


@every_setting
def test_what_stands_at_ignored_pixels_does_not_matter(setting: Setting) -> None:
    case = case_of(setting)
    case.valid[0, :32] = False  # whole positions of every stride
    case.valid[1, 32:, 32:] = False
    value, gradients = value_and_gradients(case, case.student)

    def spoilt(maps: Tensor, rubbish: float) -> Tensor:
        step = 64 // maps.shape[-1]
        return maps.masked_fill(~case.valid[:, None, ::step, ::step], rubbish)

    if not setting.neighbours:
        # An adapter's weight has no gradient but NaN where NaN stands in its input: a large number it is.
        other, slopes = value_and_gradients(
            case,
            changed(case.student, lambda maps: spoilt(maps, 1e3)),
            teacher=changed(case.teacher, lambda maps: spoilt(maps, -1e3)),
            labels=case.labels.masked_fill(~case.valid, 255),
        )
        assert other == pytest.approx(value, rel=1e-5)
        for gradient, slope in zip(gradients, slopes, strict=True):
            torch.testing.assert_close(slope, gradient, rtol=1e-3, atol=1e-5)
    student, inputs = leaves(case.student)
    case.value(student=student).backward()
    assert any(maps.grad is not None and maps.grad.abs().sum() > 0 for maps in inputs)
    if not setting.neighbours:
        assert all((spoilt(maps.grad, 0.0) == maps.grad).all() for maps in inputs if maps.grad is not None)


@every_setting
def test_the_teacher_gets_no_gradient(setting: Setting) -> None:
    case = case_of(setting)
    teacher, inputs = leaves(case.teacher)
    case.value(teacher=teacher, student=leaves(case.student)[0]).backward()
    assert all(maps.grad is None for maps in inputs)


@every_setting
def test_memory_layout_does_not_matter(setting: Setting) -> None:
    case = case_of(setting)
    value, gradients = value_and_gradients(case, case.student)
    relaid = lambda maps: maps.to(memory_format=torch.channels_last)  # noqa: E731
    other, slopes = value_and_gradients(case, changed(case.student, relaid), teacher=changed(case.teacher, relaid))
    assert other == pytest.approx(value, rel=1e-5)
    for gradient, slope in zip(gradients, slopes, strict=True):
        torch.testing.assert_close(slope, gradient, rtol=1e-3, atol=1e-6)


@every_setting
@pytest.mark.parametrize("kind", ["peaked", "constant", "zero", "zero student", "half a million"])
def test_extreme_features_stay_finite(setting: Setting, kind: str) -> None:
    case = case_of(setting)
    change: Callable[[Tensor], Tensor] = {
        "peaked": lambda maps: 1e4 * maps,
        "constant": lambda maps: torch.full_like(maps, 3.1),
        "half a million": lambda maps: maps + 5e5,
    }.get(kind, torch.zeros_like)
    student = changed(case.student, change)
    teacher = case.teacher if kind == "zero student" else changed(case.teacher, change)
    value, gradients = value_and_gradients(case, student, teacher=teacher)
    assert torch.isfinite(torch.tensor(value))
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


@every_setting
def test_networks_that_do_not_fit_are_refused(setting: Setting) -> None:
    student, teacher = tiny_network(4, classes=5).info, tiny_network(8, classes=3).info
    method = setting.make()
    if method.needs_logits:
        with pytest.raises(UserError, match=f"method {setting.name} .*the student has 5 classes and the teacher 3"):
            method.build(student, teacher)
    else:
        method.build(student, teacher)
    bare = dataclasses.replace(student, stages=())
    equal: NetworkInfo = dataclasses.replace(teacher, num_classes=5)
    method = setting.make()
    if method.needs_stages:
        with pytest.raises(UserError, match=f"method {setting.name} .*the student has 0 .*the teacher 4"):
            method.build(bare, equal)
    else:
        method.build(bare, equal)


# ---- hyper-parameters and names


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
        ("feature", {"distance": "l1"}, "feature: distance is 'l1', expected 'mse', 'cosine' or 'normalised'"),
        ("feature", {"preset": "fitnets"}, "feature: preset is 'fitnets', expected 'normalised' or 'fitnet'"),
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


def test_every_class_in_the_folder_is_exported_and_tried() -> None:
    found = {
        member.__name__
        for file in pkgutil.iter_modules(methods.__path__)
        for _, member in inspect.getmembers(importlib.import_module(f"segdistill.methods.{file.name}"), inspect.isclass)
        if issubclass(member, Method) and member is not Method
    }
    assert found == {kind.__name__ for kind in METHODS.values()}
    assert sorted([*found, "METHODS", "Method"]) == sorted(methods.__all__)
    assert {setting.name for setting in SETTINGS} == set(METHODS)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_has_a_page(name: str) -> None:
    assert METHODS[name]().name == name
    page = (Path(__file__).parents[2] / "docs" / "methods" / f"{name}.md").read_text()
    assert page.startswith(f"# {name}\n")
    headings = ["Idea", "Formula", "Defaults", "When to use it, and when not", "Where the reading had to choose"]
    assert [line[3:] for line in page.splitlines() if line[:3] == "## " and line != "## Presets"][:5] == headings
    parameters = inspect.signature(METHODS[name]).parameters
    cells = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", page, flags=re.MULTILINE))
    assert set(cells) == set(parameters)
    for parameter, default in METHODS[name]().hyper_parameters().items():
        written = re.split(r"[ ;]", cells[parameter])[0]
        assert yaml.safe_load(written) == default or float(written) == default, parameter
    assert ("## Presets" in page) == ("preset" in parameters)
