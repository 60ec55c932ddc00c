"""Every method in a `Distiller`, from images: whichever pair of networks it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from segdistill import Distiller, UserError, load_network
from segdistill.methods import METHODS
from tests.methods.settings import Setting
from tests.methods.trial import batch, distiller_of, every_setting, method_terms, network

# Strides of student and teacher, student's width, image size: finer, equal, coarser; 16 against 8 and 32 against 4.
PAIRS = [
    (8, 8, 4, (64, 64)),
    (16, 8, 4, (65, 97)),
    (32, 4, 3, (64, 64)),
    (4, 32, 6, (65, 97)),
    (8, 16, 4, (64, 96)),
]


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
    skipping = method_terms(distiller_of(setting)(images, ignored))
    full = method_terms(distiller_of(setting)(images, labels))
    if not setting.make().needs_labels:
        everywhere = method_terms(distiller_of(setting, ignored="distil")(images, ignored))
        for name, term in full.items():
            assert everywhere[name].item() == pytest.approx(term.item(), rel=1e-5)
    for name, term in full.items():
        assert skipping[name].item() != pytest.approx(term.item(), rel=1e-4) or (setting.sparse and term == 0)


@every_setting
def test_one_image_one_class(setting: Setting) -> None:
    torch.manual_seed(0)
    networks = network(width=8, classes=1, seed=1), network(width=4, classes=1, seed=2)
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
    distiller = Distiller(network(width=8, seed=1), network(width=4, seed=2), [kind() for kind in METHODS.values()])
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
