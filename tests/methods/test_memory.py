"""What CIRKD remembers, and draws that depend on a counter alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from segdistill import Distiller, Features
from segdistill.methods import CIRKD
from segdistill.methods.draws import Draws
from segdistill.methods.memory import ClassMemory
from tests.methods.scene import features, networks
from tests.tiny import tiny_network


def vectors_of(memory: ClassMemory, label: int) -> Tensor:
    return memory.vectors[label * memory.size : (label + 1) * memory.size].float()


def test_the_newest_vectors_of_each_class_stay() -> None:
    memory = ClassMemory(num_classes=2, size=3, channels=1)
    given = torch.tensor([[True, False, True], [False, False, False]])
    memory.remember(torch.tensor([[[1.0], [9.0], [2.0]], [[9.0], [9.0], [9.0]]]), given)
    assert sorted(vectors_of(memory, 0).flatten().tolist()) == [0, 1, 2]
    assert memory.seen.tolist() == [2, 0]
    memory.remember(torch.tensor([[[3.0], [4.0], [5.0], [6.0]]]).expand(2, -1, -1), torch.ones(2, 4, dtype=torch.bool))
    assert sorted(vectors_of(memory, 0).flatten().tolist()) == [4, 5, 6]
    assert sorted(vectors_of(memory, 1).flatten().tolist()) == [4, 5, 6]
    memory.remember(torch.tensor([[[7.0]], [[7.0]]]), torch.tensor([[True], [False]]))
    assert sorted(vectors_of(memory, 0).flatten().tolist()) == [5, 6, 7]
    assert sorted(vectors_of(memory, 1).flatten().tolist()) == [4, 5, 6]
    assert memory.vectors[-1] == 0
    assert memory.vectors.shape == (2 * 3 + 1, 1), "one row for what is not kept"
    assert memory.vectors.dtype == torch.float16


def test_only_what_was_remembered_is_recalled() -> None:
    memory, draws = ClassMemory(num_classes=3, size=4, channels=1), Draws()
    assert not memory.recall(12, draws, 1)[1].any()
    memory.remember(torch.tensor([[[1.0]], [[2.0]], [[3.0]]]), torch.tensor([[True], [False], [True]]))
    vectors, remembered = memory.recall(12, draws, 1)
    assert vectors.shape == (12, 1)
    assert vectors[remembered].unique().tolist() == [1, 3]
    assert remembered.view(3, 4).any(1).tolist() == [True, False, True]


def test_what_is_recalled_depends_on_step_and_stream_and_not_on_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, draws = ClassMemory(num_classes=2, size=100, channels=1), Draws()
    memory.remember(torch.arange(200.0).view(2, 100, 1), torch.ones(2, 100, dtype=torch.bool))
    first = memory.recall(40, draws, 1)[0]
    slots = (draws(2, 20, stream=1) * 100).floor() + torch.tensor([[0], [100]])
    assert first.flatten().tolist() == slots.flatten().tolist()
    assert not torch.equal(memory.recall(40, draws, 2)[0], first)
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 1)
    assert torch.equal(memory.recall(40, draws, 1)[0], first)


def test_every_vector_of_a_full_memory_is_recalled_as_often() -> None:
    memory, draws = ClassMemory(num_classes=1, size=3, channels=1), Draws().train()
    memory.remember(torch.tensor([[[1.0], [2.0], [3.0]]]), torch.ones(1, 3, dtype=torch.bool))
    found = []
    for _ in range(300):
        draws.advance()
        found.append(memory.recall(5, draws, 1)[0].flatten())
    assert len(found[0]) == 3  # never more than there are
    assert torch.cat(found).unique(return_counts=True)[1].tolist() == pytest.approx([300] * 3, rel=0.2)


def cirkd_case() -> tuple[CIRKD, dict[str, Any]]:
    method = CIRKD(pixel_memory=40, region_memory=6)
    method.build(*networks())  # type: ignore[arg-type]
    student, teacher = (features(info, seed) for info, seed in zip(networks(), (1, 2), strict=True))
    blocks = torch.randint(0, 4, (2, 9, 9), generator=torch.Generator().manual_seed(4))
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    valid = torch.ones(2, 72, 72, dtype=torch.bool)
    valid[0, :24] = False
    return method.double(), {"student": student, "teacher": teacher, "labels": labels, "valid": valid}


def test_remembered_pixels_are_of_the_class_they_stand_under() -> None:
    method, case = cirkd_case()
    method(**case)
    units = case["teacher"].embedding / case["teacher"].embedding.norm(dim=1, keepdim=True)
    labels = case["labels"][:, 4::8, 4::8].clone()
    labels[0, :3] = 255
    for label in range(5):
        inside = labels == label
        pixels = units.permute(0, 2, 3, 1)[inside]
        kept = method.pixels_of.vectors[label * 40 : label * 40 + int(method.pixels_of.seen[label])]
        assert method.pixels_of.seen[label] == sum(min(16, int(image.sum())) for image in inside)
        assert all((pixels - vector).abs().amax(1).min() < 1e-6 for vector in kept)
        assert len(kept.unique(dim=0)) == len(kept)
        means = [units[b, :, inside[b]].mean(1) for b in range(2) if inside[b].any()]
        regions = method.regions_of.vectors[label * 6 : label * 6 + len(means)]
        torch.testing.assert_close(regions, torch.stack([m / m.norm() for m in means]) if means else regions)


def test_memories_are_state_of_the_method_and_a_resumed_run_goes_on_with_them() -> None:
    images = torch.rand(3, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 5, (3, 2, 64, 64), generator=torch.Generator().manual_seed(1))

    def fresh() -> Distiller:
        torch.manual_seed(0)
        return Distiller(tiny_network(8, seed=1), tiny_network(4, seed=2), CIRKD(pixel_memory=50, region_memory=4))

    whole, broken = fresh(), fresh()
    for step in range(2):
        whole(images[step], labels[step])
    broken.load_state_dict(whole.state_dict())
    torch.manual_seed(99)  # whatever has drawn in between
    ours, theirs = (one(images[2], labels[2]).terms for one in (whole, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(a, b) for a, b in zip(whole.buffers(), broken.buffers(), strict=True))
    assert not any("memory" in name or "vectors" in name for name in whole.student.state_dict())
    before = whole.methods["cirkd"].pixels_of.seen.clone()
    whole.eval()(images[0], labels[0])
    assert torch.equal(whole.methods["cirkd"].pixels_of.seen, before)


def numbers(step: int, stream: int, places: range) -> list[float]:
    """The hash in Python's whole numbers. Other numbers would break off the runs that are resumed with them."""
    found = []
    for place in places:
        value = (place + 0x9E3779B1 * step + 0x85EBCA6B * stream) % 2**32
        for _ in range(3):
            value = (value ^ value // 2**16) * 0x045D9F3B % 2**32
        found.append((value ^ value // 2**16) // 2**8 / 2**24)
    return found


def test_draws_are_a_hash_of_place_step_and_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = Draws()
    for step in range(4):
        assert draws.step == step
        for stream in range(3):
            assert draws(2, 30, stream=stream).tolist() == [
                numbers(step, stream, range(30)),
                numbers(step, stream, range(30, 60)),
            ]
        draws.advance()
    draws.step.fill_(2**30)
    assert draws(50).tolist() == numbers(2**30, 0, range(50))
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 3)
    assert draws(2, 5).flatten().tolist() == numbers(2**30, 0, range(30, 40)), "ten for each process"
    assert draws(10, same_everywhere=True).tolist() == numbers(2**30, 0, range(10))


def test_draws_and_memory_stay_on_their_device() -> None:
    """The device without numbers stands for an accelerator."""
    draws, memory = Draws().to("meta"), ClassMemory(num_classes=2, size=3, channels=4).to("meta")
    assert draws(2, 3).device.type == "meta"
    memory.remember(torch.ones(2, 5, 4, device="meta"), torch.ones(2, 5, dtype=torch.bool, device="meta"))
    assert all(value.device.type == "meta" for value in (*memory.buffers(), *memory.recall(4, draws, 1)))


def test_draws_are_even_and_change_with_step_and_stream() -> None:
    draws = Draws()
    first = draws(100, 1000)
    assert torch.equal(draws(100, 1000), first)
    assert 0 <= first.min() <= first.max() < 1
    assert first.mean().item() == pytest.approx(0.5, abs=0.005)
    assert first.histc(10, 0, 1).div(1e4).sub(1).abs().max() < 0.05
    draws.advance()
    second = draws(100, 1000)
    for other in (second, draws(100, 1000, stream=1)):
        assert abs(torch.corrcoef(torch.stack([first.flatten(), other.flatten()]))[0, 1]) < 0.02
    assert abs(torch.corrcoef(torch.stack([second.flatten()[1:], second.flatten()[:-1]]))[0, 1]) < 0.02
    draws.eval().advance()
    assert torch.equal(draws(100, 1000), second)


def test_draws_do_not_come_again_in_a_long_run() -> None:
    draws, seen = Draws(), set()
    for step in range(300):
        draws.step.fill_(997 * step)
        seen.add(tuple(draws(4).tolist()))
    assert len(seen) == 300


def memory_step(own: slice) -> list[Tensor]:
    """CIRKD's gradient by a weight that stands for the student's, and its memories, after a step in training.

    Without batch statistics, so that a batch means the same however many processes share it.
    """
    torch.manual_seed(0)
    method, case = cirkd_case()
    method.projection[1].eval()  # type: ignore[index]
    factors = torch.ones(8, 1, 1, dtype=torch.float64, requires_grad=True)
    x, t = case["student"], case["teacher"]
    terms = method(
        student=Features((), (x.embedding * factors)[own], x.logits[own]),
        teacher=Features((), t.embedding[own], t.logits[own]),
        labels=case["labels"][own],
        valid=torch.ones_like(case["valid"])[own],
    )
    (slope,) = torch.autograd.grad(torch.stack([*terms.values()]).sum(), factors)
    return [slope, *(value.double() for value in method.buffers())]
