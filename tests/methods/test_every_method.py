"""What every method must do, whichever pair of networks it is given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from segdistill import Distiller, Features, Network, Tap, UserError, load_network
from segdistill.methods import METHODS, Method
from tests.tiny import tiny_network

# (student, teacher) strides, student width: finer, equal, coarser; among them 16 against 8 and 32 against 4.
PAIRS = [(8, 8, 4), (16, 8, 4), (32, 4, 3), (4, 32, 6), (8, 16, 4)]


def batch(size: tuple[int, int] = (64, 64), images: int = 2, classes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(images, 3, *size, generator=generator)
    labels = torch.randint(0, classes, (images, *size), generator=generator)
    return pixels, labels


def distiller_of(method: Method, pair: tuple[int, int, int] = (8, 8, 4), **options: object) -> Distiller:
    torch.manual_seed(0)
    student, teacher, width = pair
    made = Distiller(
        tiny_network(width=8, stride=teacher, seed=1),
        tiny_network(width=width, stride=student, seed=2),
        method,
        **options,  # type: ignore[arg-type]
    )
    made.prepare([batch()[0]])
    return made


@pytest.fixture(params=sorted(METHODS))
def method(request: pytest.FixtureRequest) -> Method:
    return METHODS[request.param]()


def method_terms(out: object) -> dict[str, torch.Tensor]:
    return {name: term for name, term in out.terms.items() if name != "task"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("size", [(64, 64), (97, 131)])
def test_any_pair_and_size_teaches_the_student_alone(
    method: Method, pair: tuple[int, int, int], size: tuple[int, int]
) -> None:
    distiller = distiller_of(method, pair)
    images, labels = batch(size)
    out = distiller(images, labels)
    terms = method_terms(out)
    assert terms
    assert out.logits.shape == (2, 5, *size)
    assert all(term.shape == () and torch.isfinite(term) and term > 0 for term in terms.values())
    torch.stack(list(terms.values())).sum().backward()
    reached = [p for p in distiller.student.model.stem.parameters() if p.grad is not None and p.grad.abs().sum() > 0]
    assert reached
    assert all(torch.isfinite(p.grad).all() for p in distiller.parameters() if p.grad is not None)
    assert all(p.grad is None and not p.requires_grad for p in distiller.teacher.parameters())


def test_total_is_the_sum_of_terms(method: Method) -> None:
    out = distiller_of(method)(*batch())
    assert out.loss.item() == pytest.approx(sum(term.item() for term in out.terms.values()), rel=1e-6)


def test_batch_without_a_valid_pixel_costs_nothing(method: Method) -> None:
    distiller = distiller_of(method)
    images, labels = batch()
    out = distiller(images, torch.full_like(labels, 255))
    assert out.loss.item() == 0
    out.loss.backward()
    gradients = [p.grad for p in distiller.parameters() if p.grad is not None]
    assert all((gradient == 0).all() for gradient in gradients)


def test_no_labels_needed(method: Method) -> None:
    out = distiller_of(method)(batch()[0])
    assert "task" not in out.terms
    assert out.loss > 0


def test_ignored_pixels_count_only_when_asked_for(method: Method) -> None:
    images, labels = batch()
    ignored = labels.clone()
    ignored[:, 32:] = 255
    everywhere = method_terms(distiller_of(method, ignored="distil")(images, ignored))
    skipping = method_terms(distiller_of(type(method)())(images, ignored))
    full = method_terms(distiller_of(type(method)())(images, labels))
    for name, term in full.items():
        assert everywhere[name].item() == pytest.approx(term.item(), rel=1e-5)
        assert skipping[name].item() != pytest.approx(term.item(), rel=1e-4)


def test_one_image_one_class(method: Method) -> None:
    torch.manual_seed(0)
    distiller = Distiller(tiny_network(8, classes=1, seed=1), tiny_network(4, classes=1, seed=2), method)
    distiller.prepare([batch()[0]])
    images, labels = batch(images=1, classes=1)
    # Batch normalisation over one position is refused by torch; one image of several positions is not.
    out = distiller(images, labels)
    assert torch.isfinite(out.loss)
    out.loss.backward()


def test_bf16_autocast_is_close(method: Method) -> None:
    distiller = distiller_of(method)
    distiller.eval()
    images, labels = batch()
    full = distiller(images, labels).loss.item()
    with torch.autocast("cpu", torch.bfloat16):
        half = distiller(images, labels).loss
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full, rel=0.1)


def random_views(network: Network, generator: torch.Generator, size: int) -> Features:
    """Every position near one of six prototypes, as in an image of few classes: nobody is only like himself."""

    def maps(tap: Tap) -> torch.Tensor:
        side = size // tap.stride
        prototypes = torch.randn(6, tap.channels, generator=generator)
        members = prototypes[torch.randint(0, 6, (2, side, side), generator=generator)].permute(0, 3, 1, 2)
        return members + 0.1 * torch.randn(2, tap.channels, side, side, generator=generator)

    info = network.info
    return Features(tuple(maps(tap) for tap in info.stages), maps(info.embedding), maps(info.logits))


def tiled(features: Features) -> Features:
    return Features(
        tuple(stage.repeat(1, 1, 2, 2) for stage in features.stages),
        features.embedding.repeat(1, 1, 2, 2),
        features.logits.repeat(1, 1, 2, 2),
    )


def test_value_holds_at_another_crop_size(method: Method) -> None:
    """A weight tuned at one crop size holds at another: four copies of a scene cost what one costs.

    Nearly: filters see other neighbours at the seams, and a relation's row has more than four times the others.
    """
    generator = torch.Generator().manual_seed(0)
    distiller = distiller_of(method).eval()
    student = random_views(distiller.student, generator, 256)
    teacher = random_views(distiller.teacher, generator, 256)
    one = method(student=student, teacher=teacher, labels=None, valid=torch.ones(2, 256, 256, dtype=torch.bool))
    four = method(
        student=tiled(student),
        teacher=tiled(teacher),
        labels=None,
        valid=torch.ones(2, 512, 512, dtype=torch.bool),
    )
    for name, term in one.items():
        assert four[name].item() == pytest.approx(term.item(), rel=0.05), name


def test_same_network_has_nothing_to_teach() -> None:
    """With student = teacher the methods without an adapter are at their minimum, 0."""
    images, labels = batch()
    for name in ("kd", "brd", "cwd"):
        distiller = Distiller(tiny_network(seed=3), tiny_network(seed=3), METHODS[name]())
        distiller.eval()
        assert all(abs(term.item()) < 1e-4 for term in method_terms(distiller(images, labels)).values())


def test_state_goes_through_a_state_dict(method: Method) -> None:
    """What a method has learnt is restored, and nothing of the teacher is in it."""
    first, second = distiller_of(method), distiller_of(type(method)())
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.01)
    second.load_state_dict(first.state_dict())
    first.eval()
    second.eval()
    images, labels = batch()
    assert first(images, labels).loss.item() == pytest.approx(second(images, labels).loss.item())
    assert not any("teacher" in key for key in first.state_dict())


def test_methods_compose() -> None:
    methods = [kind() for kind in METHODS.values()]
    distiller = distiller_of(methods[0])
    torch.manual_seed(0)
    distiller = Distiller(tiny_network(8, seed=1), tiny_network(4, seed=2), methods)
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
    methods = [kind() for kind in METHODS.values()]
    distiller = Distiller(load_network(teacher, num_classes=4), load_network(student, num_classes=4), methods)
    images, labels = batch((96, 64), classes=4)
    distiller.prepare([images])
    out = distiller(images, labels)
    assert torch.isfinite(out.loss)
    out.loss.backward()
    first: nn.Parameter = next(distiller.student.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_hyper_parameters_make_the_method_again(method: Method) -> None:
    again = type(method)(**method.hyper_parameters())
    assert again.hyper_parameters() == method.hyper_parameters()


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        ("kd", {"temperature": 0.0}, "kd: temperature is 0.0, expected a number above 0"),
        ("kd", {"weight": -1.0}, "kd: weight is -1.0, expected 0 or more"),
        ("cwd", {"temperature": float("nan")}, "cwd: temperature is nan, expected a number above 0"),
        ("ka", {"latent_channels": -3}, "ka: latent_channels is -3, expected a number above 0"),
        ("ka", {"lr": -1.0}, "ka: lr is -1.0, expected a number above 0"),
        ("brd", {"boundary": -1.0}, "brd: boundary is -1.0, expected 0 or more"),
        ("brd", {"operator": "canny"}, "operator is 'canny', expected 'pool', 'laplacian' or 'sobel'"),
        ("drd", {"channel": float("inf")}, "drd: channel is inf, expected 0 or more"),
        ("drd", {"normalize": "l2"}, "normalize is 'l2', expected 'cosine' or 'softmax'"),
    ],
)
def test_impossible_hyper_parameters(kind: str, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        METHODS[kind](**values)


def test_every_method_is_listed_and_documented() -> None:
    for name, kind in METHODS.items():
        assert kind().name == name
        assert "arXiv" in (kind.__doc__ or "")
