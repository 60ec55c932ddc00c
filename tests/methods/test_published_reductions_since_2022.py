"""Values of the methods since 2022 against their authors' reductions, by the conversions of the docstrings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill.losses import cross_image_relation_kl, memory_relation_kl
from segdistill.methods import BPKD, CIRKD, DIST, DKD, IDD, LSKD, MGD, AfDCD, AttnFD, MasKD
from segdistill.methods.attnfd import _Attention, _over_positions
from segdistill.methods.draws import Draws
from segdistill.methods.mgd import masked_positions
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


@pytest.mark.parametrize("temperature", [2.0, 3.0])
def test_lskd_is_a_mean_over_samples(whole: Case, temperature: float) -> None:
    standard = [
        (rows(whole[role].logits) - rows(whole[role].logits).mean(1, keepdim=True))
        / rows(whole[role].logits).std(1, correction=0, keepdim=True)
        for role in ("student", "teacher")
    ]
    log_x, log_t = ((scores / temperature).log_softmax(1) for scores in standard)
    published = 9 * temperature**2 * (log_t.exp() * (log_t - log_x)).sum(1).mean()
    assert built(LSKD(temperature=temperature))(**whole)["logits"].item() == pytest.approx(published.item(), rel=1e-6)


def pearson(a: Tensor, b: Tensor) -> Tensor:
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-8)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_dist_takes_columns_over_the_whole_batch(whole: Case, temperature: float) -> None:
    x, t = ((rows(whole[role].logits) / temperature).softmax(1) for role in ("student", "teacher"))
    squared = temperature**2
    terms = built(DIST(across="batch", temperature=temperature))(**whole)
    assert terms["classes"].item() == pytest.approx(squared * (1 - pearson(x, t).mean().item()), rel=1e-5)
    assert terms["positions"].item() == pytest.approx(squared * (1 - pearson(x.T, t.T).mean().item()), rel=1e-5)
    by_image = built(DIST(temperature=temperature))(**whole)["positions"].item()
    single = [pearson(a.T, b.T).mean() for a, b in zip(x.chunk(2), t.chunk(2), strict=True)]
    assert by_image == pytest.approx(squared * (1 - torch.stack(single).mean().item()), rel=1e-5)


def test_by_image_dist_asks_no_other_process(whole: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segdistill.methods.dist.gather_batch", lambda _: pytest.fail("gathers the batch"))
    built(DIST())(**whole)


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


@pytest.mark.parametrize("options", [{}, {"distance": "mse"}])
def test_mgd_compares_what_is_made_of_the_embedding(whole: Case, options: dict[str, str]) -> None:
    method = built(MGD(masked=0.0, weight=3.0, **options))
    both = [method.generator(method.adapter(whole["student"].embedding)), whole["teacher"].embedding]
    if not options:  # each channel of each image has mean 0 and variance 1
        both = [
            (maps - maps.mean((2, 3), keepdim=True)) / maps.std((2, 3), correction=0, keepdim=True) for maps in both
        ]
    expected = 3 * (both[0] - both[1]).square().mean()
    assert method(**whole)["features"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_share_of_the_positions_is_masked_in_all_channels() -> None:
    maps = torch.full((4, 3, 50, 50), 2.0)
    found = masked_positions(maps, Draws(), 0.8)
    assert set(found.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(found[:, :1].expand_as(found), found)
    assert (found == 0).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert torch.equal(masked_positions(maps, Draws(), 0.0), maps)


def test_a_number_of_the_share_itself_keeps_its_position() -> None:
    draws = Draws()
    draws.forward = lambda *shape: torch.tensor([0.0, 0.24, 0.25, 0.9]).view(shape)  # type: ignore[method-assign]
    maps = torch.ones(1, 3, 2, 2)
    assert masked_positions(maps, draws, 0.25)[0].flatten(1).tolist() == [[0, 0, 1, 1]] * 3
    assert torch.equal(masked_positions(maps, draws, 0.0), maps)


def test_cirkd_relates_pixels_to_what_it_remembers(whole: Case) -> None:
    """Valid pixels alone, and nothing to a class that was never seen."""
    whole["valid"][0, :24] = False
    whole["labels"].masked_fill_(whole["labels"] == 4, 3)
    inside = whole["valid"][:, ::8, ::8].flatten()
    method = built(CIRKD(preset="paper", minibatch=0, kd=0, pixel=2.0, region=3.0, temperature=0.5))
    method.train()(**whole)
    terms = method.eval()(**whole)
    x, t = (
        F.normalize(maps, dim=1) for maps in (method.projection(whole["student"].embedding), whole["teacher"].embedding)
    )
    for stream, (name, weight, memory, count) in enumerate(
        (("pixel", 2.0, method.pixels_of, 4096), ("region", 3.0, method.regions_of, 1024)), start=1
    ):
        vectors, remembered = memory.recall(count, method.draws, stream)
        assert len(vectors) == 5 * -(-count // 5)
        assert remembered.view(5, -1).any(1).tolist() == [True, True, True, True, False]
        keys = vectors[remembered].double()
        log_x, log_t = ((rows(maps)[inside] @ keys.T / 0.5).log_softmax(1) for maps in (x, t))
        expected = weight * 0.25 * (log_t.exp() * (log_t - log_x)).sum(1).mean()
        assert terms[name].item() == pytest.approx(expected.item(), rel=1e-5)


def test_cirkd_relates_the_anchors_alone(whole: Case) -> None:
    method = built(CIRKD(anchors=9, temperature=0.5, minibatch=2.0, pixel=3.0, region=4.0, kd=0))
    method.train()(**whole)
    terms = method.eval()(**whole)
    x, t = (whole[role].embedding for role in ("student", "teacher"))
    expected = 2 * cross_image_relation_kl(student=x, teacher=t, temperature=0.5, anchors=9)
    assert terms["minibatch"].item() == pytest.approx(expected.item(), rel=1e-6)
    of_all = 2 * cross_image_relation_kl(student=x, teacher=t, temperature=0.5)
    assert terms["minibatch"].item() != pytest.approx(of_all.item(), rel=1e-3)
    vectors, remembered = method.pixels_of.recall(4096, method.draws, 1)
    related = {"student": method.projection(x), "teacher": t, "memory": vectors, "remembered": remembered}
    expected = 3 * memory_relation_kl(**related, temperature=0.5, anchors=9)
    assert terms["pixel"].item() == pytest.approx(expected.item(), rel=1e-6)
    of_all = 3 * memory_relation_kl(**related, temperature=0.5)
    assert terms["pixel"].item() != pytest.approx(of_all.item(), rel=1e-3)


def test_cirkd_projects_without_biases() -> None:
    first, _, _, last = built(CIRKD()).projection
    assert (first.kernel_size, last.kernel_size) == ((1, 1), (1, 1))
    assert (first.bias, last.bias) == (None, None)


@pytest.mark.parametrize(("width", "columns"), [(1, [3]), (3, [3, 4])])
def test_bpkd_tells_edges_from_what_is_inside(whole: Case, width: int, columns: list[int]) -> None:
    """Classes meet between pixel rows 39 and 40, and columns 29 and 30: at positions 4 and 5, and 3 or 3 and 4."""
    labels = torch.zeros(2, 72, 72, dtype=torch.long)
    labels[:, 40:] = 1
    labels[..., 30:] += 2
    near = torch.zeros(9, 9, dtype=torch.bool)
    near[4:6] = True
    near[:, columns] = True
    method = built(BPKD(edge=2.0, body=3.0, width=width, edge_temperature=2.0, body_temperature=5.0))
    terms = method(**(whole | {"labels": labels}))
    x, t = (whole[role].logits for role in ("student", "teacher"))
    log_x, log_t = ((maps[:, :, near] / 2).log_softmax(1) for maps in (x, t))
    edge = 2 * 4 * (log_t.exp() * (log_t - log_x)).sum(1).mean()
    assert terms["edge"].item() == pytest.approx(edge.item(), rel=1e-6)
    log_x, log_t = ((maps[:, :, ~near] / 5).log_softmax(2) for maps in (x, t))
    body = 3 * 25 * (log_t.exp() * (log_t - log_x)).sum(2).mean()
    assert terms["body"].item() == pytest.approx(body.item(), rel=1e-6)


def test_attnfd_looks_at_valid_positions_alone() -> None:
    maps = torch.tensor([[[[-1.0, -2.0], [-6.0, 99.0]]], [[[1.0, 2.0], [3.0, 4.0]]], [[[5.0, -1.0], [6.0, 7.0]]]])
    inside = torch.tensor([[[True, True], [True, False]], [[False, False]] * 2, [[False, True], [False, False]]])
    mean, largest = _over_positions(maps, inside)
    assert mean.flatten().tolist() == [-3.0, 0.0, -1.0]
    assert largest.flatten().tolist() == [-1.0, 0.0, -1.0]


def test_attnfds_student_attends_to_channels_and_then_to_positions() -> None:
    attention = _Attention(5).double().eval()
    norm = attention.position[1]
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    maps = torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = attention(maps, torch.ones(2, 6, 7, dtype=torch.bool))
    first, _, second = attention.channel
    for image, ours in zip(maps, found, strict=True):
        gate = 2 * second.bias
        for values in (image.mean((1, 2)), image.amax((1, 2))):
            gate = gate + second.weight @ (first.weight @ values + first.bias).clamp(min=0)
        image = image / (1 + (-gate).exp()).view(5, 1, 1)  # noqa: PLW2901
        both = torch.stack([image.max(0).values, image.sum(0) / 5])
        where = (F.conv2d(both[None], attention.position[0].weight, padding=3)[0] - 0.3) / (2 + norm.eps) ** 0.5
        torch.testing.assert_close(ours, image / (1 + (-where).exp()))


@pytest.mark.parametrize(("channels", "hidden"), [(8, 1), (48, 3)])
def test_attnfd_has_the_layers_of_the_paper(channels: int, hidden: int) -> None:
    attention = _Attention(channels)
    assert attention.channel[0].out_features == hidden
    assert attention.position[0].kernel_size == (7, 7)
    assert attention.position[0].bias is None
    assert all(adapter[0].bias is None for adapter in built(AttnFD(stages=True)).adapters)


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


@pytest.mark.parametrize(("groups", "size"), [(3, 6), (16, 1)])
def test_afdcds_authors_sum_over_the_channels_of_a_piece(whole: Case, groups: int, size: int) -> None:
    """Sixteen channels: two pieces of six and one of four, or sixteen of one. Each position is a patch."""
    method = built(AfDCD(preset="authors", contrast=2.0, masked=0.0, pool=1, groups=groups, patch=1, kd=0))
    made = method.generator(method.adapter(whole["student"].embedding))
    x, t = (
        F.pad(rows(maps), (0, groups * size - 16)).view(-1, groups, size) for maps in (made, whole["teacher"].embedding)
    )
    scores = -(x.unsqueeze(2) - t.unsqueeze(1)).abs().sum(3) / 0.07
    expected = -2 * scores.log_softmax(2).diagonal(dim1=1, dim2=2).mean()
    assert method(**whole)["contrast"].item() == pytest.approx(expected.item(), rel=1e-6)


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
