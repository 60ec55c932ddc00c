"""What MasKD and IDD learn from the teacher before the student's training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import UserError
from segdistill.methods import IDD, KA, MasKD
from tests.methods.scene import built, networks
from tests.methods.test_formulas import positions


def overlap(masks: Tensor) -> Tensor:
    """Mean Dice coefficient of every two masks of an image."""
    pairs = [
        2 * (image[k] * image[m]).sum() / (image[k].square() + image[m].square()).sum()
        for image in masks
        for k in range(len(image))
        for m in range(len(image))
        if k != m
    ]
    return torch.stack(pairs).mean()


@pytest.mark.parametrize(("dtype", "accuracy"), [(torch.float64, 1e-5), (torch.float32, 1e-3)])
@pytest.mark.parametrize("preset", ["authors", "paper"])
def test_tokens_are_learnt_step_by_step(preset: str, dtype: torch.dtype, accuracy: float) -> None:
    """SGD by hand: momentum 0.9, weight decay in the gradient, gradients clipped together at 1."""
    torch.manual_seed(0)
    method = built(MasKD(preset=preset, tokens=3, lr=0.05, weight_decay=0.1)).to(dtype)
    assert method.receptive_tokens.std().item() == pytest.approx(0.01, rel=0.5)
    assert method.prepared.dtype == torch.bool
    chance = torch.Generator().manual_seed(0)
    batches = [
        {
            "logits": (0.5 + index) * torch.randn(2, 5, 4, 4, generator=chance, dtype=torch.float64),
            "embedding.pooled": (0.5 + index) * torch.randn(2, 16, 4, 4, generator=chance, dtype=torch.float64),
        }
        for index in range(3)
    ]
    name = "logits" if preset == "authors" else "embedding.pooled"
    scale = 1.0 if preset == "authors" else batches[0][name].square().mean().sqrt().item()
    torch.manual_seed(7)
    head = nn.Conv2d(16, 5, 1).double() if preset == "paper" else nn.Identity()
    parameters = [nn.Parameter(method.receptive_tokens.double().clone()), *head.parameters()]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    lengths = []
    for batch in batches:
        maps = batch[name] / scale
        masks = torch.einsum("mc,bchw->bmhw", parameters[0], maps).sigmoid()
        scores = head(maps * masks.sum(1, keepdim=True))
        loss = F.cross_entropy(scores, batch["logits"].argmax(1)) + overlap(masks)
        gradients = torch.autograd.grad(loss, parameters)
        lengths.append(torch.sqrt(sum(gradient.square().sum() for gradient in gradients)).item())
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient / max(1.0, lengths[-1]) + 0.1 * parameter)
                parameter.sub_(0.05 * velocity)
    assert preset == "authors" or max(lengths) > 1, "the test must see the clipping"
    torch.manual_seed(7)
    method.prepare(batches)
    torch.testing.assert_close(
        method.receptive_tokens.double(), parameters[0].data, rtol=accuracy, atol=1e-4 * accuracy
    )
    assert method.rms.item() == pytest.approx(scale, rel=1e-6)


def test_maskd_on_features_divides_the_teachers_by_their_size(case: dict[str, Any]) -> None:
    method = built(MasKD(preset="paper", weight=3.0))
    method.prepared.fill_(True)
    method.rms.fill_(1.7)
    method.receptive_tokens.copy_(torch.randn(8, 16, generator=torch.Generator().manual_seed(2)))
    whole = case | {"valid": torch.ones_like(case["valid"])}
    x, t = method.adapter(case["student"].embedding), case["teacher"].embedding / 1.7
    masks = torch.einsum("mc,bchw->bmhw", method.receptive_tokens, t).sigmoid()
    squares = ((x - t).unsqueeze(1) * masks.unsqueeze(2)).square().sum((3, 4))
    expected = 3 * 0.5 * (squares / masks.sum((2, 3)).unsqueeze(2)).mean()
    assert method(**whole)["features"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_position_head_reads_where_a_feature_is(case: dict[str, Any]) -> None:
    """Two of the teacher's channels are made of rows and columns: from these the coordinates can be told."""
    method = built(IDD(distance=0.0, position=2.0, kd=0.0))
    rows, columns = torch.meshgrid(*2 * [(torch.arange(9).double() - 4) / 4.5], indexing="ij")
    t = case["teacher"].embedding.clone()
    t[:, 0] = 2 * rows - columns + 0.5
    t[:, 1] = columns - 0.5
    method.prepare([{"embedding.pooled": t[:1]}, {"embedding.pooled": t[1:]}])
    read = torch.einsum("dc,bchw->bdhw", method.reading[:, :-1], t) + method.reading[:, -1:, None]
    where = torch.stack([rows, columns]).expand(2, -1, -1, -1)
    torch.testing.assert_close(read, where, rtol=0, atol=0.01)
    case |= {"teacher": type(case["teacher"])(case["teacher"].stages, t, case["teacher"].logits)}
    said = method.head(case["student"].embedding)
    squares = torch.cat([(positions(said, image) - positions(read, image)).square().mean(1) for image in range(2)])
    assert method(**case)["position"].item() == pytest.approx(2 * squares.mean().item(), rel=1e-6)


def test_the_position_head_is_a_least_squares_fit_with_a_little_weight_decay() -> None:
    """On whole numbers, whose sums are exact; two channels are almost the same."""
    method = built(IDD(distance=0.0, kd=0.0))
    chance = torch.Generator().manual_seed(0)
    batches = [torch.randint(-9, 10, (images, 16, 4, 8), generator=chance).double() for images in (2, 1)]
    for batch in batches:
        batch[:, 1] = batch[:, 0]
        batch[0, 1, 2, 3] += 1
    method.prepare([{"embedding.pooled": batch} for batch in batches])
    features = F.pad(torch.cat([batch.permute(0, 2, 3, 1).flatten(0, 2) for batch in batches]), (0, 1), value=1.0)
    rows, columns = torch.meshgrid((torch.arange(4) - 1.5) / 2, (torch.arange(8) - 3.5) / 4, indexing="ij")
    where = torch.stack([rows, columns], dim=2).view(-1, 2).double().repeat(3, 1)
    decay = 1e-4 * features.square().sum() / 17
    padded = torch.cat([features, decay.sqrt() * torch.eye(17, dtype=torch.float64)])
    expected = torch.linalg.lstsq(padded, F.pad(where, (0, 0, 0, 17))).solution.T
    torch.testing.assert_close(method.reading, expected, rtol=1e-6, atol=1e-9)
    resumed = built(IDD(distance=0.0, kd=0.0))
    resumed.load_state_dict(method.state_dict())
    assert torch.equal(resumed.reading, method.reading)


@pytest.mark.parametrize("kind", [KA, IDD, MasKD])
def test_a_method_waits_for_its_pre_stage(case: dict[str, Any], kind: type) -> None:
    method = kind()
    method.build(*networks())
    assert method.prepared.dtype == torch.bool
    case |= {"labels": torch.zeros(2, 72, 72, dtype=torch.long)}
    outputs = {name: maps.float() for name, maps in method.teacher_outputs(case["teacher"]).items()}
    given = case | {
        "teacher": outputs,
        "student": type(case["student"])((), case["student"].embedding.float(), case["student"].logits.float()),
    }
    with pytest.raises(UserError, match=r"call distiller\.prepare\(batches\) first"):
        method(**given)
    with pytest.raises(UserError, match=r"pre-stage got no batch of images"):
        method.prepare([])
    method.prepare([outputs])
    assert all(torch.isfinite(value) for value in method(**given).values())
