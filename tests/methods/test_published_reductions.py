"""Our values against the reductions of papers and their authors, by the conversions that the docstrings give."""

from __future__ import annotations

import dataclasses
from itertools import combinations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill import Features
from segdistill.methods import AT, CWD, DSD, IFVD, SKD, Feature, ReviewKD
from segdistill.methods.dsd import _shrunk
from tests.methods.scene import built, features, networks

Case = dict[str, object]


@pytest.fixture
def whole(case: Case) -> Case:
    """Without ignored pixels: the published codes know none."""
    return case | {"valid": torch.ones_like(case["valid"])}  # type: ignore[arg-type]


def test_fitnet_has_half_the_sum_and_its_port_the_mean_over_elements(whole: Case) -> None:
    method = built(Feature(preset="fitnet", weight=1.0))
    difference = method.adapters[0](whole["student"].embedding) - whole["teacher"].embedding
    value = method(**whole)["features"].item()
    assert value == pytest.approx(difference.square().mean().item(), rel=1e-6)
    half_sums = torch.stack([0.5 * image.square().sum() for image in difference]).mean()
    assert difference[0].numel() / 2 * value == pytest.approx(half_sums.item(), rel=1e-6)


def crop(shown: Features, rows: slice, columns: slice) -> Features:
    """Without stages: these are of other sizes."""
    return Features((), shown.embedding[..., rows, columns], shown.logits[..., rows, columns])


def attention(maps: Tensor) -> Tensor:
    return F.normalize(maps.pow(2).mean(1).flatten(1))


def test_at_has_the_mean_over_positions(whole: Case) -> None:
    x, t = (whole[role].embedding for role in ("student", "teacher"))
    published = 10_000 * (attention(x) - attention(t)).pow(2).mean()
    positions = x.shape[2] * x.shape[3]
    value = built(AT(preset="cirkd", weight=10_000 / positions))(**whole)["attention"]
    assert value.item() == pytest.approx(published.item(), rel=1e-6)
    assert AT(preset="cirkd").weight == pytest.approx(10_000 / (64 * 128), rel=0.02)


def test_at_sums_over_the_stages(whole: Case) -> None:
    pairs = list(zip(whole["student"].stages, whole["teacher"].stages, strict=True))
    published = sum((attention(x) - attention(t)).pow(2).sum(1).mean() for x, t in pairs)
    value = built(AT(weight=len(pairs)))(**whole)["attention"]
    assert value.item() == pytest.approx(published.item(), rel=1e-6)
    assert AT().weight == pytest.approx(sum(500 / side**2 for side in (32, 16, 8)), rel=0.05)


def test_cwd_divides_by_images_and_channels(whole: Case) -> None:
    method = built(CWD(at="embedding"))
    x, t = method.adapter(whole["student"].embedding), whole["teacher"].embedding
    p, q = (F.softmax(maps.flatten(0, 1).flatten(1) / 4, dim=1) for maps in (t, x))
    published = 50 * 16 * (p * (p.log() - q.log())).sum() / p.shape[0]
    assert method(**whole)["embedding"].item() == pytest.approx(published.item(), rel=1e-6)


@pytest.mark.parametrize(("preset", "window"), [("paper", 2), ("authors", 4)])
def test_skd_pairs_every_two_regions(whole: Case, preset: str, window: int) -> None:
    """9 x 9 positions; half a side is 4, rounded down."""
    nodes = []
    for role in ("student", "teacher"):
        pooled = F.max_pool2d(whole[role].embedding, window, ceil_mode=True).flatten(2)
        pooled = pooled / pooled.norm(dim=1, keepdim=True)
        nodes.append(torch.einsum("icm,icn->imn", pooled, pooled))
    published = (nodes[1] - nodes[0]).pow(2).sum() / nodes[0].shape[-1] ** 2 / len(nodes[0])
    weight = {"paper": 10.0, "authors": 1.0}[preset]
    value = built(SKD(preset=preset))(**whole)["pairwise"].item()
    assert value == pytest.approx(weight * published.item(), rel=1e-5)


def test_skd_leaves_out_regions_without_a_valid_position(case: Case) -> None:
    """Of the first image's 9 rows three are ignored: one region of two rows wholly, the next one in half."""
    differences = []
    for image, first in ((0, 3), (1, 0)):
        grams = []
        for role in ("student", "teacher"):
            maps = case[role].embedding[image].clone()
            maps[:, :first] = -torch.inf
            regions = F.max_pool2d(maps[None], 2, ceil_mode=True)[0].flatten(1)
            regions = F.normalize(regions[:, regions[0] > -torch.inf], dim=0)
            grams.append(regions.T @ regions)
        differences.append((grams[0] - grams[1]).square().flatten())
    assert [len(one) for one in differences] == [20**2, 25**2]
    value = built(SKD(kd=0.0))(**case)["pairwise"].item()
    assert value == pytest.approx(10 * torch.cat(differences).mean().item(), rel=1e-5)


def test_skds_window_is_as_high_and_as_wide_as_a_part_of_the_map(whole: Case) -> None:
    """9 x 5 positions; half of the sides is 4 and 2."""
    cut = {role: crop(whole[role], slice(9), slice(5)) for role in ("student", "teacher")}
    grams = []
    for shown in cut.values():
        pooled = F.normalize(F.max_pool2d(shown.embedding, (4, 2), ceil_mode=True).flatten(2), dim=1)
        grams.append(pooled.mT @ pooled)
    value = built(SKD(preset="authors"))(**(whole | cut | {"valid": whole["valid"][..., :40]}))["pairwise"].item()
    assert value == pytest.approx((grams[0] - grams[1]).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("pool", "positions", "window"),
    [(1, 9, 1), (2, 9, 2), (3.6, 9, 4), (20, 9, 9), (0.5, 9, 4), (0.5, 1, 1), (0.99, 9, 8)],
)
def test_skds_window_is_of_positions_or_a_part_of_the_side(pool: float, positions: int, window: int) -> None:
    assert SKD(pool=pool)._window(positions) == window


def test_skds_authors_do_not_divide_the_pixel_term_by_the_batch(whole: Case) -> None:
    x, t = (whole[role].logits for role in ("student", "teacher"))
    entropy = -(t.softmax(1) * t.log_softmax(1)).sum()
    published = (-(t.softmax(1) * x.log_softmax(1)).sum() - entropy) / x.shape[2] / x.shape[3]
    value = built(SKD(kd=10.0 * len(x)))(**whole)["kd"].item()
    assert value == pytest.approx(10 * published.item(), rel=1e-6)
    assert SKD(preset="authors").kd == 10 * 8


def test_ifvds_authors_count_unlabelled_pixels_and_divide_by_classes(whole: Case) -> None:
    blocks = torch.randint(0, 5, (2, 9, 9), generator=torch.Generator().manual_seed(4))
    blocks[0, :2] = 255
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    whole |= {"labels": labels, "valid": labels != 255}
    cosines = []
    for role in ("student", "teacher"):
        maps = whole[role].embedding
        centers = maps.clone()
        for image, label in [(image, label) for image in range(2) for label in range(5)]:
            members = blocks[image] == label
            centers[image][:, members] = maps[image][:, members].mean(1, keepdim=True)
        cosines.append(F.cosine_similarity(maps, centers, dim=1))
    published = 200 * F.mse_loss(*cosines)
    terms = built(IFVD(preset="authors", kd=10 / 5))(**whole)
    share = (blocks != 255).double().mean()
    assert share * terms["variation"].item() == pytest.approx(published.item(), rel=1e-6)

    inside = (blocks != 255)[:, None]
    logs, p = whole["student"].logits.log_softmax(1), whole["teacher"].logits.softmax(1)
    elements = F.kl_div(logs, p, reduction="none").masked_select(inside)
    assert terms["kd"].item() == pytest.approx(10 * elements.mean().item(), rel=1e-6)
    assert IFVD(preset="authors").kd == 10 / 19


@pytest.mark.parametrize(("stride", "temperature"), [(8, 4.0), (4, 3.0)])
def test_dsds_port_has_the_mean_over_positions(whole: Case, stride: int, temperature: float) -> None:
    """An embedding of stride 4 is compared at stride 8; class scores are of stride 8 anyway."""
    infos = []
    for role, info in zip(("student", "teacher"), networks(), strict=True):
        infos.append(dataclasses.replace(info, embedding=dataclasses.replace(info.embedding, stride=stride)))
        whole[role] = dataclasses.replace(whole[role], embedding=features(infos[-1], len(infos) + 4).embedding)
    residuals = []
    for role in ("student", "teacher"):
        shown = whole[role]
        energies = [m.pow(2).mean(1) for m in (shown.stages[1], shown.embedding, shown.logits)]
        maps = [F.normalize(F.adaptive_avg_pool2d(energy, 9).flatten(1)) for energy in energies]
        residuals.append([F.normalize(maps[m] - maps[n]) for n, m in combinations(range(3), 2)])
    published = 1000 * torch.stack([(s - t).pow(2).mean() for s, t in zip(*residuals, strict=True)]).mean()
    method = DSD(pixel=1000 / 81, temperature=temperature)
    method.build(*infos)
    terms = method.double().eval()(**whole)
    assert terms["pixel"].item() == pytest.approx(published.item(), rel=1e-5)

    grams = []
    for role in ("student", "teacher"):
        pooled = F.avg_pool2d(whole[role].logits, 2, ceil_mode=True, count_include_pad=False).flatten(2)
        distribution = F.normalize((pooled / temperature).softmax(2), dim=2)
        grams.append(distribution @ distribution.mT)
    assert terms["category"].item() == pytest.approx(10 * (grams[0] - grams[1]).square().mean().item(), rel=1e-5)


@pytest.mark.parametrize(("count", "taken"), [(1, 0), (2, 1), (4, 1)])
def test_dsd_takes_the_second_stage_or_the_only_one(whole: Case, count: int, taken: int) -> None:
    method = DSD(category=0.0)
    method.build(*(dataclasses.replace(info, stages=info.stages[:count]) for info in networks()))
    shown = method.teacher_outputs(whole["teacher"])
    assert set(shown) == {f"attention.stages.{taken}", "attention.embedding", "attention.logits"}


def test_dsd_averages_much_finer_maps_over_whole_windows() -> None:
    maps = torch.randn(1, 1, 6, 18, generator=torch.Generator().manual_seed(0))
    means = [[maps[0, 0, 3 * i : 3 * i + 3, 3 * j : 3 * j + 3].mean() for j in range(6)] for i in range(2)]
    torch.testing.assert_close(_shrunk(maps, (2, 6))[0, 0], torch.tensor(means))


def test_reviewkd_has_the_layers_of_its_fusion() -> None:
    """No convolution before a batch normalisation has a bias; the last stage has nothing to be joined with."""
    fusions = built(ReviewKD()).fusions
    assert all(layers[0].bias is None for fusion in fusions for layers in (fusion.reduce, fusion.smooth))
    assert [fusion.attention is None for fusion in fusions] == [False, False, False, True]


def published_hcl(student: Tensor, teacher: Tensor) -> Tensor:
    loss, weight, weights = F.mse_loss(student, teacher), 1.0, 1.0
    for level in (4, 2, 1):
        if level < student.shape[2]:
            weight /= 2
            loss = loss + weight * F.mse_loss(*(F.adaptive_avg_pool2d(maps, level) for maps in (student, teacher)))
            weights += weight
    return loss / weights


def test_reviewkd_sums_over_stages_from_the_last_to_the_first(whole: Case) -> None:
    method = built(ReviewKD(channels=6))
    published, above = torch.zeros((), dtype=torch.float64), None
    stages = list(zip(whole["student"].stages, whole["teacher"].stages, method.fusions, strict=True))
    for x, t, fusion in reversed(stages):
        x, t = (F.avg_pool2d(maps, 2) if maps.shape[-1] == 18 else maps for maps in (x, t))  # noqa: PLW2901
        x = fusion.reduce(x)  # noqa: PLW2901
        if above is not None:
            above = F.interpolate(above, size=x.shape[2:])
            shares = torch.sigmoid(fusion.attention[0](torch.cat([x, above], 1)))
            x = x * shares[:, :1] + above * shares[:, 1:]  # noqa: PLW2901
        above = x
        published = published + published_hcl(fusion.expand(fusion.smooth(x).movedim(1, -1)).movedim(-1, 1), t)
    assert method(**whole)["review"].item() == pytest.approx(published.item(), rel=1e-6)
