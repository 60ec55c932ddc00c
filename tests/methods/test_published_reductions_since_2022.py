"""Values of the methods since 2022 against their authors' reductions, by the conversions of the docstrings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.methods import CIRKD, DIST, DKD, IDD, LSKD, MGD, AfDCD, AttnFD, MasKD
from tests.methods.scene import built

Case = dict[str, Any]


@pytest.fixture
def whole(case: Case) -> Case:
    """Without ignored pixels: the published codes know none. Labels in blocks that every stride resolves."""
    blocks = torch.randint(0, 5, (2, 9, 9), generator=torch.Generator().manual_seed(4))
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    return case | {"valid": torch.ones_like(case["valid"]), "labels": labels}


def rows(maps: Tensor) -> Tensor:
    """(B, C, H, W) -> (B H W, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def test_dkd_is_a_sum_over_samples_divided_by_their_number(whole: Case) -> None:
    temperature = 4.0
    y = whole["labels"][:, 4::8, 4::8].flatten()
    target = F.one_hot(y, 5).bool()
    parts = []
    for role in ("student", "teacher"):
        scores = rows(whole[role].logits) / temperature
        p = scores.softmax(1)[target]
        others = (scores - 1000.0 * target).softmax(1)  # the authors take the target out by -1000
        parts.append((torch.stack([p, 1 - p], 1), others))
    (b_x, o_x), (b_t, o_t) = parts
    tckd = F.kl_div(b_x.log(), b_t, reduction="sum") * temperature**2 / len(y)
    nckd = F.kl_div(o_x.clamp(min=1e-300).log(), o_t, reduction="sum") * temperature**2 / len(y)
    terms = built(DKD(preset="paper"))(**whole)
    assert terms["target"].item() == pytest.approx(tckd.item(), rel=1e-6)
    assert terms["non_target"].item() == pytest.approx(8 * nckd.item(), rel=1e-6)


def test_the_two_parts_of_dkd_make_kd(whole: Case) -> None:
    """With weights of 1 and the teacher's doubt, pixel by pixel; so for a doubt that is the same everywhere."""
    from segdistill.losses import non_target_kl, pixel_kl, target_kl

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 5, 4, 4, generator=generator, dtype=torch.float64)
    t = x.roll(1, 1)
    t[:, 0] = torch.log(0.25 * t[:, 1:].exp().sum(1))  # p_0 = 0.2 everywhere
    both = {"student": x, "teacher": t}
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    total = target_kl(**both, labels=labels) + 0.8 * non_target_kl(**both, labels=labels)
    assert total.item() == pytest.approx(pixel_kl(**both).item(), rel=1e-9)


def test_lskd_is_a_mean_over_samples(whole: Case) -> None:
    standard = [
        (rows(whole[role].logits) - rows(whole[role].logits).mean(1, keepdim=True))
        / rows(whole[role].logits).std(1, correction=0, keepdim=True)
        for role in ("student", "teacher")
    ]
    log_x, log_t = ((scores / 2).log_softmax(1) for scores in standard)
    published = 9 * 4 * (log_t.exp() * (log_t - log_x)).sum(1).mean()
    assert built(LSKD())(**whole)["logits"].item() == pytest.approx(published.item(), rel=1e-6)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


def test_dist_takes_columns_over_the_whole_batch(whole: Case) -> None:
    x, t = (rows(whole[role].logits).softmax(1) for role in ("student", "teacher"))
    terms = built(DIST(across="batch"))(**whole)
    assert terms["classes"].item() == pytest.approx(1 - pearson(x, t).mean().item(), rel=1e-5)
    assert terms["positions"].item() == pytest.approx(1 - pearson(x.T, t.T).mean().item(), rel=1e-5)
    by_image = built(DIST())(**whole)["positions"].item()
    single = [pearson(a.T, b.T).mean() for a, b in zip(x.chunk(2), t.chunk(2), strict=True)]
    assert by_image == pytest.approx(1 - torch.stack(single).mean().item(), rel=1e-5)


def test_cirkd_has_no_squared_temperature(whole: Case) -> None:
    x, t = (F.normalize(whole[role].embedding.flatten(2), dim=1) for role in ("student", "teacher"))
    published = 0.0
    for i in range(2):
        for j in range(2):
            log_x, log_t = ((maps[i].T @ maps[j] / 0.1).log_softmax(1) for maps in (x, t))
            published += F.kl_div(log_x, log_t.exp(), reduction="batchmean").item() / 4
    method = built(CIRKD(preset="paper", pixel=0, region=0, kd=0))
    assert method(**whole)["minibatch"].item() == pytest.approx(published, rel=1e-6)


def test_mgd_has_the_sum_over_everything_divided_by_the_batch(whole: Case) -> None:
    method = built(MGD(preset="paper", masked=0.0, weight=1.0))
    x, t = whole["student"].stages[-1], whole["teacher"].stages[-1]
    published = 2e-5 * F.mse_loss(method.generator(method.adapter(x)), t, reduction="sum") / 2
    value = 2e-5 * t[0].numel() * method(**whole)["features"]
    assert value.item() == pytest.approx(published.item(), rel=1e-6)
    assert MGD(preset="paper").weight == pytest.approx(2e-5 * 2048 * 64 * 64, rel=0.01)


def test_idd_has_half_the_sum_over_pairs(whole: Case) -> None:
    labels = whole["labels"][:, 4::8, 4::8]
    values, pairs = [], set()
    for x, t, classes in zip(whole["student"].embedding, whole["teacher"].embedding, labels, strict=True):
        seen = classes.unique()
        total = torch.zeros((), dtype=torch.float64)
        for a in range(len(seen)):
            for b in range(a + 1, len(seen)):
                edges = [(m[:, classes == seen[a]].mean(1) - m[:, classes == seen[b]].mean(1)).norm() for m in (x, t)]
                total += 0.5 * (edges[1] - edges[0]) ** 2
        values.append(total)
        pairs.add(len(seen) * (len(seen) - 1) / 2)
    (number,) = pairs  # all five classes in both images
    method = built(IDD(distance=number / 2, position=0, kd=0, relative=False))
    assert method(**whole)["distance"].item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-6)


def test_maskd_divides_by_the_size_of_the_field(whole: Case) -> None:
    method = built(MasKD())
    method.receptive_tokens.copy_(torch.randn(8, 5, generator=torch.Generator().manual_seed(2)))
    method.prepared.fill_(True)
    x, t = whole["student"].logits, whole["teacher"].logits
    masks = torch.einsum("mc,bchw->bmhw", method.receptive_tokens, t).sigmoid()
    squares = ((x - t).unsqueeze(1) * masks.unsqueeze(2)).square().sum((3, 4))
    published = 0.5 * (squares / masks.sum((2, 3)).unsqueeze(2)).mean()
    assert method(**whole)["logits"].item() == pytest.approx(published.item(), rel=1e-6)


def test_afdcd_has_sums_over_channels_and_over_groups(whole: Case) -> None:
    groups, patch, tau = 4, 2, 0.07
    method = built(AfDCD(preset="authors", masked=0.0, pool=1, groups=groups, patch=patch, kd=0))
    # The last row and column have no whole patch, which the published code cannot take.
    case = whole | {
        role: type(whole[role])(
            *[
                tuple(stage for stage in whole[role].stages),
                whole[role].embedding[..., :8, :8],
                whole[role].logits[..., :8, :8],
            ]
        )
        for role in ("student", "teacher")
    }
    case |= {"valid": whole["valid"][:, :64, :64], "labels": whole["labels"][:, :64, :64]}
    t = case["teacher"].embedding
    made = method.generator(method.adapter(case["student"].embedding))
    batch, channels, height, width = t.shape
    mimic = 2e-6 * F.mse_loss(made, t, reduction="sum") / batch
    value = method(**case)
    assert value["mimic"].item() / method.mimic * 2e-6 * t[0].numel() == pytest.approx(mimic.item(), rel=1e-6)

    size = channels // groups
    total = torch.zeros((), dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                rows_of, columns_of = (range(k // patch * patch, (k // patch + 1) * patch) for k in (i, j))
                for g in range(groups):
                    piece = made[b, g * size : (g + 1) * size, i, j]
                    others = [(k, m, h) for k in rows_of for m in columns_of for h in range(groups) if h != g]
                    scores = [
                        -(piece - t[b, h * size : (h + 1) * size, k, m]).abs().sum() / tau
                        for k, m, h in [(i, j, g), *others]
                    ]
                    total -= torch.stack(scores).log_softmax(0)[0]
    contrast = 0.005 * total / (height * width) / batch
    # Their 0.005 times the groups is our weight.
    assert value["contrast"].item() * 0.005 * groups / method.contrast == pytest.approx(contrast.item(), rel=1e-6)
    assert AfDCD(preset="authors").contrast == pytest.approx(0.005 * 16)
    assert AfDCD(preset="authors").mimic == pytest.approx(2e-6 * 2048 * 64 * 128, rel=0.01)


def test_attnfd_scales_the_whole_batch_and_divides_by_it(whole: Case) -> None:
    """With equal images the whole batch's length is sqrt(B) times one image's."""
    twice = {
        role: type(whole[role])(
            tuple(stage[:1].repeat(2, 1, 1, 1) for stage in whole[role].stages),
            whole[role].embedding[:1].repeat(2, 1, 1, 1),
            whole[role].logits[:1].repeat(2, 1, 1, 1),
        )
        for role in ("student", "teacher")
    }
    method = built(AttnFD())
    x, t = twice["student"].embedding, twice["teacher"].embedding
    gate = (t.mean((2, 3), keepdim=True) + t.amax((2, 3), keepdim=True)).sigmoid() * t
    refined = gate * (gate.mean(1, keepdim=True) + gate.amax(1, keepdim=True)).sigmoid()
    inside = torch.ones(2, 9, 9, dtype=torch.bool)
    adapted = method.adapters[0](method.attention[0](x, inside))
    published = 2 * (adapted / adapted.norm() - refined / refined.norm()).pow(2).sum() / 2
    assert method(**(whole | twice))["features"].item() * 2 / 2 == pytest.approx(published.item(), rel=1e-6)
