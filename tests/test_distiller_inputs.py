"""What the distiller gives to its methods: features, labels and masks of padded images."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from segdistill import Distiller, Supervised, UserError
from segdistill.losses import shrink as shrinking
from segdistill.methods import BRD, KA, KD, Method
from segdistill.networks.features import Features
from segdistill.networks.padding import pad_to_multiple
from tests.tiny import pair, tiny_network


def test_ka_needs_its_pre_stage() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KA())
    with pytest.raises(UserError, match=r"call distiller.prepare\(batches\) first"):
        distiller(torch.rand(1, 3, 64, 64))


class Spy(Method):
    """Keeps what it is given."""

    def forward(self, *, student: Features, teacher: Any, labels: Any, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        self.student, self.teacher, self.labels, self.valid = student, teacher, labels, valid
        return {"spy": student.embedding.mean()}


def spied(**options: Any) -> tuple[Distiller, Spy]:
    """Networks that want their images divisible by 48 and 32, hence by 96 together."""
    teacher, student = tiny_network(8, seed=1), tiny_network(4, seed=2)
    teacher.multiple, student.multiple = 48, 32
    spy = Spy()
    return Distiller(teacher, student, spy, **options), spy


IMAGES = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))


def some_labels() -> torch.Tensor:
    labels = torch.randint(0, 5, (2, 50, 70), generator=torch.Generator().manual_seed(0))
    labels[0, 3, 4:9] = 255
    return labels


def test_where_nobody_has_labelled_the_teacher_alone_speaks() -> None:
    distiller, spy = spied(unlabelled_index=254)
    labels = some_labels()
    without = distiller(IMAGES, labels).terms["task"]
    labels[1] = 254
    assert "task" not in distiller(IMAGES).terms
    out = distiller(IMAGES, labels)
    ignored = torch.where(labels == 254, 255, labels)
    assert torch.equal(spy.valid[:, :50, :70], labels != 255)  # the second image whole, the first as labelled
    assert torch.equal(spy.labels[:, :50, :70], ignored)
    expected = torch.nn.functional.cross_entropy(out.logits, ignored, ignore_index=255)
    torch.testing.assert_close(out.terms["task"], expected)
    assert not torch.equal(without, expected)
    assert (
        Distiller(tiny_network(8), tiny_network(4), KD(), unlabelled_index=254)(
            IMAGES, torch.full((2, 50, 70), 254)
        ).terms["task"]
        == 0
    )


def test_a_student_alone_learns_from_labelled_pixels_only() -> None:
    labels = some_labels()
    labels[1] = 254
    out = Supervised(tiny_network(4), unlabelled_index=254)(IMAGES, labels)
    expected = torch.nn.functional.cross_entropy(out.logits[:1], labels[:1], ignore_index=255)
    torch.testing.assert_close(out.terms["task"], expected)
    with pytest.raises(UserError, match=r"labels hold the values \[254\], expected 0 to 4"):
        Supervised(tiny_network(4))(IMAGES, labels)


@pytest.mark.parametrize("ignored", ["skip", "distil"])
def test_padding_is_neither_valid_nor_labelled(ignored: str) -> None:
    distiller, spy = spied(ignored=ignored)
    labels = some_labels()
    distiller(IMAGES, labels)
    assert spy.valid.dtype == torch.bool
    assert spy.valid.shape == spy.labels.shape == (2, 96, 96)  # of both multiples, not of one of them
    inside = spy.valid[:, :50, :70]
    assert torch.equal(inside, labels != 255 if ignored == "skip" else torch.ones_like(inside))
    assert int(spy.valid.sum()) == int(inside.sum())
    assert torch.equal(spy.labels[:, :50, :70], labels)
    assert set(spy.labels[:, 50:].unique().tolist()) == set(spy.labels[:, :, 70:].unique().tolist()) == {255}


def test_without_labels_the_image_is_valid_and_padding_is_not() -> None:
    distiller, spy = spied()
    distiller(torch.rand(2, 3, 50, 110))
    assert spy.valid.shape == (2, 96, 192)
    assert bool(spy.valid[:, :50, :110].all())
    assert int(spy.valid.sum()) == 2 * 50 * 110


def test_both_networks_see_the_same_padded_image() -> None:
    """Each feature is that of the image padded by hand to 96 x 96; the scores are cropped back to 50 x 70."""
    distiller, spy = spied()
    distiller.eval()
    padded = F.pad(IMAGES, (0, 26, 0, 46), mode="replicate")
    out = distiller(IMAGES, some_labels())
    assert distiller.teacher is not None
    for found, network in ((spy.student, distiller.student), (spy.teacher, distiller.teacher)):
        logits, expected = network.forward_with_features(padded)
        torch.testing.assert_close(found.embedding, expected.embedding, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
        if network is distiller.student:
            torch.testing.assert_close(out.logits, logits[:, :, :50, :70], rtol=1e-4, atol=1e-5)
    assert out.logits.shape == (2, 5, 50, 70)


def test_teacher_outputs_are_those_of_the_padded_image() -> None:
    """What a cache keeps is what a step would take: of 96 x 96, where the teacher alone would pad to 48 x 48."""
    distiller, spy = spied()
    images, labels = IMAGES[:, :, :40, :44], some_labels()[:, :40, :44]
    distiller(images, labels)
    kept = distiller.teacher_outputs(images)
    assert kept["embedding"].shape[-2:] == (96 // 8, 96 // 8)
    torch.testing.assert_close(kept["embedding"], spy.teacher.embedding)
    again = distiller(images, labels, kept)
    assert again.loss.item() == pytest.approx(distiller(images, labels).loss.item(), rel=1e-3)


def test_the_teacher_has_no_graph_even_if_its_weights_were_unfrozen() -> None:
    distiller, spy = spied()
    assert distiller.teacher is not None
    distiller.teacher.requires_grad_(True)
    distiller(IMAGES, some_labels())
    assert not spy.teacher.embedding.requires_grad
    assert not any(value.requires_grad for value in distiller.teacher_outputs(IMAGES).values())


def test_an_image_is_padded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(images: torch.Tensor, multiple: int) -> torch.Tensor:
        calls.append(tuple(images.shape[-2:]))
        return pad_to_multiple(images, multiple)

    monkeypatch.setattr("segdistill.distiller.pad_to_multiple", counted)
    distiller, _ = spied()
    distiller(IMAGES, some_labels())
    assert calls == [(50, 70)]


def test_a_mask_is_shrunk_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever of the methods asks for it; and anew in the next step, whose mask is another."""
    sizes: list[tuple[int, int]] = []
    shrink = shrinking._shrink

    def counted(valid: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        sizes.append(tuple(size))
        return shrink(valid, size)

    monkeypatch.setattr(shrinking, "_shrink", counted)
    teacher, student = pair()
    distiller = Distiller(teacher, student, [KD(), BRD(), KD()])
    losses = []
    for ignored in (0, 40, 0):
        sizes.clear()
        labels = torch.zeros(1, 64, 64, dtype=torch.long)
        labels[:, :ignored] = 255
        losses.append(distiller.eval()(torch.ones(1, 3, 64, 64), labels).loss.item())
        assert len(sizes) == len(set(sizes)) > 1
    assert losses[0] == losses[2] != losses[1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda images, labels: (images.numpy(), labels), "images are a ndarray, expected a torch tensor"),
        (lambda images, labels: (images, labels.numpy()), "labels are a ndarray, expected a torch tensor"),
        (lambda images, labels: (images, labels / 2), r"labels are torch\.float32, expected integers"),
    ],
)
def test_what_is_no_tensor_of_the_right_kind_is_refused(change: Any, told: str) -> None:
    """Labels that are fractions were rounded down without a word."""
    teacher, student = pair()
    images, labels = change(torch.rand(1, 3, 64, 64), torch.randint(0, 5, (1, 64, 64)))
    for learner in (Distiller(teacher, student, [KD()]), Supervised(student)):
        with pytest.raises(UserError, match=told):
            learner(images, labels)


def test_labels_of_one_byte() -> None:
    """As they come from data-loading processes; the values are those of int64 labels."""
    teacher, student = pair()
    distiller = Distiller(teacher, student, [KD()]).eval()
    labels = torch.randint(0, 5, (1, 64, 64))
    labels[0, :3] = 255
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(distiller(images, labels.to(torch.uint8)).loss, distiller(images, labels).loss)
    assert torch.equal(
        Supervised(student)(images, labels.to(torch.uint8)).loss, Supervised(student)(images, labels).loss
    )


class Asked(Method):
    """Has a pre-stage, which keeps what it is given, and needs labels if told so."""

    def __init__(self, needs_labels: bool = False) -> None:
        super().__init__()
        self.needs_labels = needs_labels
        self.given: list[dict[str, torch.Tensor]] = []

    def prepare(self, batches: Any) -> None:
        self.given = list(batches)

    def teacher_outputs(self, teacher: Features) -> dict[str, torch.Tensor]:
        return {"embedding": teacher.embedding}

    def forward(self, *, student: Features, teacher: Any, labels: Any, valid: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"asked": student.embedding.mean()}


def test_a_pre_stage_gets_the_teachers_outputs_of_every_kind_of_batch() -> None:
    teacher, student = pair()
    asked = Asked()
    distiller = Distiller(teacher, student, [KD(), asked])
    images = torch.rand(2, 3, 32, 32)
    labels = torch.zeros(2, 32, 32, dtype=torch.long)
    live = distiller.teacher_outputs(images)["embedding"]
    kept = {"embedding": torch.full_like(live, 0.5, dtype=torch.float16)}
    distiller.prepare([images, (images, labels), [images, labels], (images, labels, kept)])
    found = [outputs["embedding"] for outputs in asked.given]
    assert len(found) == 4
    assert all(torch.equal(one, live) for one in found[:3])
    assert found[3].dtype == torch.float32
    assert (found[3] == 0.5).all()


def test_only_methods_with_a_pre_stage_have_one() -> None:
    teacher, student = pair()
    assert not Distiller(teacher, student, KD()).has_pre_stage
    assert Distiller(teacher, student, [KD(), Asked()]).has_pre_stage

    def unread() -> Any:
        raise AssertionError("images were read for nothing")
        yield

    Distiller(teacher, student, KD()).prepare(unread())


def test_a_method_that_needs_labels_says_so() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, Asked(needs_labels=True))
    distiller(torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long))
    with pytest.raises(UserError, match="method asked needs labels, and this batch has none"):
        distiller(torch.rand(1, 3, 32, 32))
