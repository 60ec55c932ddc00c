from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from segdistill.errors import UserError
from segdistill.losses import balanced_weights, cross_entropy, focal_cross_entropy, ohem_cross_entropy
from segdistill.losses.task import BalancedCrossEntropy


def scene(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 4, 5, 7, generator=generator)
    labels = torch.randint(0, 4, (2, 5, 7), generator=generator)
    labels[torch.rand(2, 5, 7, generator=generator) < 0.2] = 255
    return logits, labels


def pixel_losses(logits: Tensor, labels: Tensor) -> list[tuple[float, int]]:
    """(loss, class) of every labelled pixel."""
    found = []
    for b, y, x in torch.nonzero(labels != 255).tolist():
        scores = logits[b, :, y, x].double()
        label = int(labels[b, y, x])
        found.append((float(torch.log(torch.exp(scores).sum()) - scores[label]), label))
    return found


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 2.5, 0.3]])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_cross_entropy_is_the_weighted_mean(weights: list[float] | None, dtype: torch.dtype) -> None:
    logits, labels = scene()
    pixels = pixel_losses(logits, labels)
    shares = [1.0 if weights is None else weights[label] for _, label in pixels]
    expected = sum(w * loss for w, (loss, _) in zip(shares, pixels, strict=True)) / sum(shares)
    value = cross_entropy(
        logits=logits,
        labels=labels.to(dtype),
        class_weights=None if weights is None else torch.tensor(weights),
    )
    assert value.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy, focal_cross_entropy])
def test_class_weights_as_a_recipe_writes_them(loss: Callable[..., Tensor]) -> None:
    logits, labels = scene()
    weights = [1.0, 0.0, 2.5, 0.3]
    torch.testing.assert_close(
        loss(logits=logits, labels=labels, class_weights=weights),
        loss(logits=logits, labels=labels, class_weights=torch.tensor(weights)),
        rtol=0,
        atol=0,
    )
    for bad in ([1.0, -1.0, 1.0, 1.0], [1.0, math.nan, 1.0, 1.0]):
        with pytest.raises(UserError, match=r"class_weights is \[.*\], expected numbers of 0 or more"):
            loss(logits=logits, labels=labels, class_weights=bad)


@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1 / 16), (0.01, 0.25), (1.0, 0.0), (0.2, 0.0), (0.1, 1.0)])
def test_ohem_keeps_the_hard_pixels(threshold: float, min_kept: float) -> None:
    logits, labels = scene()
    losses = sorted((loss for loss, _ in pixel_losses(logits, labels)), reverse=True)
    below = [loss for loss in losses if math.exp(-loss) < threshold]
    kept = losses[: max(len(below), math.ceil(min_kept * len(losses)))]
    value = ohem_cross_entropy(logits=logits, labels=labels, threshold=threshold, min_kept=min_kept)
    assert value.item() == pytest.approx(sum(kept) / len(kept), rel=1e-5)


def test_ohem_gradient_reaches_the_kept_pixels_alone() -> None:
    logits, labels = scene()
    logits.requires_grad_()
    ohem_cross_entropy(logits=logits, labels=labels, threshold=0.2, min_kept=0.0).backward()
    assert logits.grad is not None
    true_class = labels.masked_fill(labels == 255, 0).unsqueeze(1)
    probability = logits.detach().softmax(1).gather(1, true_class)[:, 0]
    hard = (probability < 0.2) & (labels != 255)
    assert 0 < hard.sum() < hard.numel()
    assert torch.equal(logits.grad.abs().sum(1) > 0, hard)


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_nothing_labelled_is_zero(loss) -> None:
    logits = scene()[0].requires_grad_()
    value = loss(logits=logits, labels=torch.full((2, 5, 7), 255))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_no_class_of_weight_is_zero(loss) -> None:
    logits, _ = scene()
    value = loss(logits=logits, labels=torch.zeros(2, 5, 7).long(), class_weights=torch.tensor([0.0, 1, 1, 1]))
    assert value.item() == 0


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_half_precision_and_another_ignore_index(loss) -> None:
    logits, labels = scene()
    half = logits.bfloat16()
    value = loss(logits=half, labels=labels.masked_fill(labels == 255, -1), ignore_index=-1)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(logits=half.float(), labels=labels))


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_the_host_never_waits_for_a_value(loss) -> None:
    with FakeTensorMode():
        logits = torch.randn(2, 4, 5, 7, requires_grad=True)
        labels = torch.zeros(2, 5, 7, dtype=torch.uint8)
        loss(logits=logits, labels=labels, class_weights=torch.ones(4)).backward()
        assert logits.grad is not None


@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy])
def test_bad_arguments_are_told(loss) -> None:
    logits, labels = scene()
    with pytest.raises(UserError, match=r"labels has shape \(2, 5, 6\), expected \(2, 5, 7\)"):
        loss(logits=logits, labels=labels[..., :6])
    with pytest.raises(UserError, match=r"labels has dtype torch.float32, expected an integer dtype"):
        loss(logits=logits, labels=labels.float())
    with pytest.raises(UserError, match=r"logits has shape \(4, 5, 7\)"):
        loss(logits=logits[0], labels=labels)
    with pytest.raises(UserError, match=r"class_weights has shape \(3,\), expected \(4,\)"):
        loss(logits=logits, labels=labels, class_weights=torch.ones(3))


@pytest.mark.parametrize("options", [{"threshold": 0.0}, {"threshold": 1.1}, {"min_kept": -0.1}, {"min_kept": 2}])
def test_ohem_ranges_are_told(options: dict[str, float]) -> None:
    logits, labels = scene()
    (name,) = options
    with pytest.raises(UserError, match=f"{name} is "):
        ohem_cross_entropy(logits=logits, labels=labels, **options)


def test_balanced_weights_are_those_of_enet() -> None:
    weights = balanced_weights(torch.tensor([700, 200, 0, 100]))
    raw = [1 / math.log(1.02 + share) for share in (0.7, 0.2, 0.1)]
    scale = 3 / sum(raw)
    torch.testing.assert_close(weights, torch.tensor([raw[0] * scale, raw[1] * scale, 0, raw[2] * scale]))
    assert weights.sum().item() == pytest.approx(3)


@pytest.mark.parametrize("counts", [[0, 0], [1, -1], [[1, 2]], []])
def test_counts_that_are_none_are_told(counts: list[float]) -> None:
    with pytest.raises(UserError, match="counts is "):
        balanced_weights(counts)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_balanced_weights_to_a_power(power: float) -> None:
    logits, labels = scene()
    pixels = torch.tensor([700, 200, 0, 100])  # class 2 never occurs, so that its pixels here do not count
    shares = {0: 0.7, 1: 0.2, 3: 0.1}
    weights = {label: math.log(1.02 + share) ** -power for label, share in shares.items()}
    found = [(weights[label] * loss, weights[label]) for loss, label in pixel_losses(logits, labels) if label != 2]
    mean_weight = sum(weights[label] * share for label, share in shares.items())
    expected = sum(loss for loss, _ in found) / len(found) / mean_weight
    loss = BalancedCrossEntropy(pixels, power=power, adjust=0.0)
    assert loss(logits=logits, labels=labels).item() == pytest.approx(expected, rel=1e-5)
    raw = torch.tensor([weights.get(label, 0.0) for label in range(4)])
    torch.testing.assert_close(loss.class_weights / loss.class_weights.sum(), raw / raw.sum())


@pytest.mark.parametrize(("options", "exponent"), [({}, 0.5), ({"adjust": 1.0}, 0.0), ({"adjust": 0.0}, 1.0)])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_what_a_network_learns_of_the_balanced_loss(options: dict[str, float], exponent: float, power: float) -> None:
    """The best scores are those of probabilities ``shares * weights ** exponent``: there no gradient is left."""
    pixels = torch.tensor([24, 12, 4])
    labels = torch.arange(3).repeat_interleave(pixels).reshape(1, 5, 8)
    shares = pixels.double() / 40
    weights = (1 / torch.log(1.02 + shares)) ** power
    scores = (shares * weights**exponent).log().requires_grad_()
    loss = BalancedCrossEntropy(pixels, power=power, **options)
    loss(logits=scores[None, :, None, None].expand(1, 3, 5, 8), labels=labels).backward()
    torch.testing.assert_close(scores.grad, torch.zeros(3, dtype=torch.float64), atol=1e-7, rtol=0)


def test_the_balanced_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    """Which hold other classes, so that their sums of weights differ."""
    logits, labels = torch.randn(4, 3, 6, 6), torch.randint(0, 3, (4, 6, 6))
    labels[:2] = labels[:2].clamp(max=1)
    loss = BalancedCrossEntropy(torch.tensor([900, 90, 10]))
    whole, parts = loss(logits=logits, labels=labels), zip(logits.split(2), labels.split(2), strict=True)
    torch.testing.assert_close(torch.stack([loss(logits=x, labels=y) for x, y in parts]).mean(), whole)


def test_a_class_that_never_occurs_is_not_shifted() -> None:
    loss = BalancedCrossEntropy(torch.tensor([700, 200, 0, 100]))
    assert loss.shift[2] == 0
    assert torch.isfinite(loss.shift).all()
    logits, labels = scene()
    assert torch.isfinite(loss(logits=logits, labels=labels))


@pytest.mark.parametrize("name", ["power", "adjust"])
@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_a_balance_out_of_range_is_told(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"balanced: {name} is .*, expected 0 to 1"):
        BalancedCrossEntropy(torch.tensor([1, 2]), **{name: value})
