"""The distiller as a user of plain PyTorch meets it."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from segdistill import Distiller, Supervised, UserError
from segdistill.losses import shrink as shrinking
from segdistill.methods import BRD, KA, KD, Method
from segdistill.networks.features import Features
from segdistill.networks.padding import pad_to_multiple
from tests.tiny import tiny_network


def pair(**options: int) -> tuple[object, object]:
    return tiny_network(8, seed=1, **options), tiny_network(4, seed=2, **options)


def test_teacher_cannot_be_woken() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KD())
    distiller.train()
    before = copy.deepcopy(teacher.state_dict())
    teacher.train()  # what a careless loop may do
    distiller(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)).loss.backward()
    assert not teacher.training
    assert student.training
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_teacher_is_in_neither_parameters_nor_state() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KD())
    of_teacher = {id(parameter) for parameter in teacher.parameters()}
    assert not of_teacher & {id(parameter) for parameter in distiller.parameters()}
    assert set(distiller.state_dict()) == {f"student.{key}" for key in student.state_dict()}


def test_teacher_moves_along() -> None:
    teacher, student = pair()
    Distiller(teacher, student, KD()).to(torch.float64)
    assert {p.dtype for p in teacher.parameters()} == {torch.float64}


def test_terms_and_task_loss() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, [BRD(), KD(weight=0.5), KD()])
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 5, (2, 64, 64))
    labels[:, :9] = 255
    out = distiller(images, labels)
    assert set(out.terms) == {"task", "brd.boundary", "brd.relation", "brd.kd", "kd", "kd_2"}
    assert out.terms["kd"].item() == pytest.approx(0.5 * out.terms["kd_2"].item())
    expected = F.cross_entropy(out.logits.double(), labels, ignore_index=255)
    assert out.terms["task"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_padding_does_not_count() -> None:
    """An image whose size suits neither network gives the loss of its own pixels."""
    teacher = tiny_network(8, seed=1)
    student = tiny_network(4, seed=2)
    student.multiple, teacher.multiple = 32, 16
    distiller = Distiller(teacher, student, KD())
    out = distiller(torch.rand(1, 3, 50, 70), torch.zeros(1, 50, 70, dtype=torch.long))
    assert out.logits.shape == (1, 5, 50, 70)
    out.loss.backward()


def test_task_loss_of_ones_own() -> None:
    teacher, student = pair()

    def dice_like(*, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
        return logits.sum() * 0 + 7.0

    out = Distiller(teacher, student, [], task_loss=dice_like)(
        torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32, dtype=torch.long)
    )
    assert out.terms["task"] == 7


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_is_refused(value: float) -> None:
    teacher, student = pair()
    with torch.no_grad():
        teacher.model.classifier.bias[2] = value
    distiller = Distiller(teacher, student, KD())
    with pytest.raises(UserError, match="the teacher's logits hold NaN or infinite values"):
        distiller(torch.rand(2, 3, 64, 64))


def test_on_an_accelerator_the_teacher_is_checked_once() -> None:
    """Meta tensors stand for it: they have no values, so that to read one is an error."""
    distiller = Distiller(*pair(), KD())
    elsewhere = {"logits": torch.ones(1, device="meta")}
    with pytest.raises(RuntimeError, match="meta"):
        distiller._check_teacher(elsewhere)
    distiller._check_teacher({"logits": torch.ones(1)})
    distiller._check_teacher(elsewhere)


def test_a_teacher_of_one_size_gets_no_other() -> None:
    teacher, student = pair()
    teacher.info = dataclasses.replace(teacher.info, size=(64, 96))
    distiller = Distiller(teacher, student, KD())
    assert distiller.teacher_outputs(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match="64 x 96 pixels alone, but these are 96 x 64"):
        distiller.teacher_outputs(torch.rand(1, 3, 96, 64))
    with pytest.raises(UserError, match="64 x 96 pixels alone, but these are 96 x 64"):
        distiller(torch.rand(1, 3, 96, 64))
    closer = Distiller(teacher, student, KD(), teacher_scale=2)
    assert closer.teacher_outputs(torch.rand(1, 3, 64, 96))
    with pytest.raises(UserError, match="32 x 48 pixels alone, but these are 48 x 32"):
        closer.teacher_outputs(torch.rand(1, 3, 96, 64))


def test_ka_needs_its_pre_stage() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KA())
    with pytest.raises(UserError, match=r"call distiller.prepare\(batches\) first"):
        distiller(torch.rand(1, 3, 64, 64))


def test_wrong_arguments_are_told_apart() -> None:
    teacher, student = pair()
    with pytest.raises(UserError, match=r"the teacher is a Conv2d, whose inside is not known; wrap it: Network\("):
        Distiller(nn.Conv2d(3, 3, 1), student, KD())
    with pytest.raises(UserError, match="same module"):
        Distiller(teacher, teacher, KD())
    with pytest.raises(UserError, match="student has 3 classes and the teacher 5"):
        Distiller(teacher, tiny_network(4, classes=3), KD())
    with pytest.raises(UserError, match="teacher takes 3 channels and the student 4"):
        Distiller(teacher, tiny_network(4, in_channels=4), KD())
    with pytest.raises(UserError, match=r"method is <class .*KD'>, expected a method's name"):
        Distiller(teacher, student, KD)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="unknown method 'kb': did you mean 'kd'"):
        Distiller(teacher, student, "kb")
    twice = KD()
    with pytest.raises(UserError, match="the same kd stands twice"):
        Distiller(teacher, student, [twice, twice])
    with pytest.raises(UserError, match="the teacher is a str, expected a segdistill Network"):
        Distiller("vit", student, KD())  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"labels have shape \(1, 16, 16\), expected \(1, 32, 32\)"):
        Distiller(teacher, student, KD())(torch.rand(1, 3, 32, 32), torch.zeros(1, 16, 16, dtype=torch.long))


@pytest.mark.parametrize(
    ("method", "weights"),
    [
        ("kd", {"kd": 1.0}),
        ({"kd": {"weight": 2.0}}, {"kd": 2.0}),
        (["kd", {"kd": {"weight": 3.0}}, KD(weight=4.0)], {"kd": 1.0, "kd_2": 3.0, "kd_3": 4.0}),
    ],
)
def test_methods_as_a_recipe_writes_them(method: Any, weights: dict[str, float]) -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, method)
    assert {name: one.weight for name, one in distiller.methods.items()} == weights
    images = torch.rand(1, 3, 32, 32)
    plain = Distiller(teacher, student, KD())(images).terms["kd"]
    terms = distiller(images).terms
    assert terms.keys() == weights.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(terms[name], weight * plain)


def test_labels_outside_the_classes() -> None:
    teacher, student = pair()
    labels = torch.zeros(1, 32, 32, dtype=torch.long)
    labels[0, 0, :3] = torch.tensor([7, -1, 255])
    with pytest.raises(UserError, match=r"labels hold the values \[-1, 7\], expected 0 to 4, or 255"):
        Distiller(teacher, student, KD())(torch.rand(1, 3, 32, 32), labels)


def test_supervised_is_the_task_loss_alone() -> None:
    student = tiny_network(4)
    out = Supervised(student)(torch.rand(2, 3, 32, 32), torch.randint(0, 5, (2, 32, 32)))
    assert set(out.terms) == {"task"}
    assert out.loss is out.losses["task"]


# What methods are given


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
    distiller(IMAGES)
    assert bool(spy.valid[:, :50, :70].all())
    assert int(spy.valid.sum()) == 2 * 50 * 70


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


def test_terms_are_for_logging_and_losses_have_gradients() -> None:
    teacher, student = pair()
    out = Distiller(teacher, student, [BRD(), KD()])(torch.rand(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = {name: float(value) for name, value in out.terms.items()}
    assert values == {name: value.item() for name, value in out.losses.items()}
    assert all(value.requires_grad for value in out.losses.values())
    assert sum(values.values()) == pytest.approx(out.loss.item(), rel=1e-6)


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


# Found by mutation (CONTRIBUTING): what each of these holds could be changed unnoticed before.


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


def test_the_teacher_is_frozen_from_the_start() -> None:
    teacher, student = pair()
    teacher.train()
    Distiller(teacher, student, KD())
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_a_teacher_that_breaks_later_is_noticed_too() -> None:
    teacher, student = pair()
    distiller = Distiller(teacher, student, KD())
    distiller(torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        teacher.model.classifier.bias[2] = float("nan")
    with pytest.raises(UserError, match="hold NaN"):
        distiller(torch.rand(1, 3, 32, 32))


class Unloaded:
    """A source whose teacher is not there: batches bring its outputs."""

    network = None
    multiple = 64

    def __init__(self) -> None:
        self.info = tiny_network(8, seed=1).info


def test_a_source_without_its_network() -> None:
    distiller = Distiller(Unloaded(), tiny_network(4, seed=2), KD()).to(torch.float32)
    assert distiller.teacher is None
    assert distiller.multiple == 64
    images = torch.rand(1, 3, 40, 40)
    with pytest.raises(UserError, match="the teacher is not loaded: pass teacher_outputs"):
        distiller(images)
    with pytest.raises(UserError, match="the teacher is not loaded"):
        distiller.teacher_outputs(images)
    teacher = tiny_network(8, seed=1)
    teacher.multiple = 64
    whole = Distiller(teacher, distiller.student, KD())
    kept = whole.teacher_outputs(images)
    torch.testing.assert_close(distiller(images, None, kept).loss, whole(images).loss)


def test_without_labels_and_methods_the_loss_is_nothing_and_has_a_gradient() -> None:
    teacher, student = pair()
    out = Distiller(teacher, student, [])(torch.rand(1, 3, 32, 32))
    assert out.losses == {}
    assert out.loss.item() == 0
    out.loss.backward()
    assert all((parameter.grad == 0).all() for parameter in student.parameters() if parameter.grad is not None)
    assert student.model.classifier.weight.grad is not None


def test_ignored_is_one_of_two_words() -> None:
    with pytest.raises(UserError, match="ignored is 'keep', expected 'skip' or 'distil'"):
        Distiller(*pair(), KD(), ignored="keep")  # type: ignore[arg-type]


def test_other_ignore_labels_and_features_of_the_student() -> None:
    """Nothing but the label named ignore is left out, in both learners; only the distiller records features."""
    teacher, student = pair()
    images = torch.rand(1, 3, 32, 32)
    labels = torch.randint(0, 5, (1, 32, 32), generator=torch.Generator().manual_seed(0))
    labels[0, :20] = 77
    for learner in (Distiller(teacher, student, [], ignore_index=77), Supervised(student, ignore_index=77)):
        out = learner(images, labels)
        torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, labels, ignore_index=77))
        assert (out.features is None) == isinstance(learner, Supervised)
        with pytest.raises(UserError, match=r"labels hold the values \[5\], expected 0 to 4"):
            learner(images, torch.full_like(labels, 5))
        with pytest.raises(UserError, match=r"labels have shape \(1, 32, 32, 1\)"):
            learner(images, labels[..., None])


def test_a_supervised_students_own_loss() -> None:
    _, student = pair()

    def constant(*, logits: torch.Tensor, labels: torch.Tensor, ignore_index: int) -> torch.Tensor:
        return logits.sum() * 0 + ignore_index

    out = Supervised(student, task_loss=constant, ignore_index=9)(torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32))
    assert out.loss == 9
