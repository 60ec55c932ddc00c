"""Each method's terms against its paper's formula, written out plainly in float64, loops and N x N matrices and all."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from segdistill import Features
from segdistill.losses import balanced_weights, boundary_map, boundary_mse, relation_kl
from segdistill.methods import BRD, CWD, DRD, KA, KD, Auto, Feature
from segdistill.methods.afdcd import AfDCD, _divided_by_rms
from segdistill.methods.idd import _coordinates
from tests.methods.scene import built, networks


def positions(maps: Tensor, image: int) -> Tensor:
    """Feature vectors of an image's valid positions, (N, C): the first image's upper third is ignored.

    A row of positions counts where half of it or less is ignored: of 5 rows the second, two thirds ignored, does not.
    """
    first = round(maps.shape[2] / 3) if image == 0 else 0
    return maps[image, :, first:].flatten(1).T


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Sum over the last axis of p (log p - log q)."""
    return (teacher * (teacher.log() - student.log())).sum(-1)


def pixelwise(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    rows = []
    for image in range(2):
        p = (positions(teacher, image) / temperature).softmax(1)
        rows.append(kl(p, (positions(student, image) / temperature).softmax(1)))
    return temperature**2 * torch.cat(rows).mean()


def cosines(vectors: Tensor) -> Tensor:
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    return unit @ unit.T


def affinity(student: Tensor, teacher: Tensor) -> Tensor:
    differences = [
        (cosines(positions(student, i)) - cosines(positions(teacher, i))).square().flatten() for i in range(2)
    ]
    return torch.cat(differences).mean()


def test_kd(case: dict[str, object]) -> None:
    term = built(KD(weight=2.0, temperature=3.0))(**case)["logits"]
    expected = 2 * pixelwise(case["student"].logits, case["teacher"].logits, 3.0)
    assert term.item() == pytest.approx(expected.item(), rel=1e-6)


def test_kd_balanced_by_labels(case: dict[str, object]) -> None:
    blocks = torch.randint(0, 5, (2, 9, 9), generator=torch.Generator().manual_seed(4))
    blocks[1, 0] = 255
    labels = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)
    valid = case["valid"] & (labels != 255)
    term = built(KD(balance="labels"))(**(case | {"labels": labels, "valid": valid}))["logits"]
    weights = balanced_weights(torch.bincount(labels[valid], minlength=5)).double()
    total = scale = torch.zeros((), dtype=torch.float64)
    for image, row, column in torch.nonzero(valid[:, ::8, ::8]).tolist():
        p, q = (case[role].logits[image, :, row, column].softmax(0) for role in ("teacher", "student"))
        weight = weights[blocks[image, row, column]]
        total, scale = total + weight * kl(p, q), scale + weight
    assert term.item() == pytest.approx((total / scale).item(), rel=1e-6)


@pytest.mark.parametrize(("adjust", "teacher_adjust"), [(0.5, None), (0.0, 1.0), (1.0, 0.25)])
def test_kd_adjusted_is_the_balanced_loss_of_soft_labels(
    case: dict[str, object], adjust: float, teacher_adjust: float | None
) -> None:
    """Each class in turn as the label, as probable as the teacher has it; less what the teacher itself would pay."""
    method = KD(balance="teacher", adjust=adjust, teacher_adjust=teacher_adjust)
    term = built(method)(**case)["logits"]
    z, t = (torch.cat([positions(case[role].logits, i) for i in range(2)]) for role in ("student", "teacher"))
    weights = balanced_weights(torch.bincount(t.argmax(1), minlength=5)).double()
    log = weights.log()
    assert weights.min() > 0
    of_teacher = adjust if teacher_adjust is None else teacher_adjust
    total = scale = torch.zeros((), dtype=torch.float64)
    for pixel in range(len(z)):
        true = (t[pixel] - (1 - of_teacher) * log).softmax(0)
        for label in range(5):
            paid = -(z[pixel] + adjust * log).log_softmax(0)[label]
            least = -(t[pixel] + of_teacher * log).log_softmax(0)[label]
            total = total + true[label] * weights[label] * (paid - least)
            scale = scale + true[label] * weights[label]
    assert term.item() == pytest.approx((total / scale).item(), rel=1e-6)


def test_kd_adjusted_weighs_nothing_by_a_class_that_was_never_seen(case: dict[str, object]) -> None:
    never = torch.tensor([0.0, 0.0, 0.0, 0.0, -50.0], dtype=torch.float64)[:, None, None]
    teacher = dataclasses.replace(case["teacher"], logits=case["teacher"].logits + never)
    term = built(KD(balance="teacher", adjust=0.5))(**(case | {"teacher": teacher}))["logits"]
    assert torch.isfinite(term)
    assert term > 0


def standardised(vectors: Tensor, dim: int) -> Tensor:
    """Mean 0, variance 1 along ``dim``."""
    return (vectors - vectors.mean(dim, keepdim=True)) / vectors.std(dim, unbiased=False, keepdim=True)


@pytest.mark.parametrize("options", [{}, {"preset": "fitnet"}, {"distance": "cosine"}, {"standardise": "position"}])
def test_feature(case: dict[str, object], options: dict[str, str]) -> None:
    method = built(Feature(**options))
    assert method.adapters[0].bias is None
    adapted, t = method.adapters[0](case["student"].embedding), case["teacher"].embedding
    per_position = []
    for image in range(2):
        a, b = positions(adapted, image), positions(t, image)
        if "distance" in options:
            per_position.append(1 - F.cosine_similarity(a, b))
        elif "preset" in options:
            per_position.append(10 * (a - b).square().mean(1))
        else:
            dim = 1 if "standardise" in options else 0
            per_position.append((standardised(a, dim) - standardised(b, dim)).square().mean(1))
    expected = torch.cat(per_position).mean().item()
    assert method(**case)["features"].item() == pytest.approx(expected, rel=1e-6)


def test_feature_at_every_stage_is_a_mean_over_places(case: dict[str, object]) -> None:
    method = built(Feature(preset="fitnet", weight=1.0, stages=True))
    student, teacher = case["student"], case["teacher"]
    pairs = [(student.embedding, teacher.embedding), *zip(student.stages, teacher.stages, strict=True)]
    expected = []
    # The embedding of stride 8, then stages of strides 4, 8, 8, 8: compared at 8, 8, 16 and 32.
    for adapter, pair, window in zip(method.adapters, pairs, (1, 2, 1, 2, 4), strict=True):
        x, t = (F.avg_pool2d(maps, window, ceil_mode=True, count_include_pad=False) for maps in pair)
        adapted = adapter(x)
        rows = [(positions(adapted, i) - positions(t, i)).square().mean(1) for i in range(2)]
        expected.append(torch.cat(rows).mean())
    assert method(**case)["features"].item() == pytest.approx(torch.stack(expected).mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "of_kd"),
    [
        ({}, {"balance": "teacher", "adjust": 0.5}),
        ({"adjust": 0.25, "teacher_adjust": 1.0}, {"balance": "teacher", "adjust": 0.25, "teacher_adjust": 1.0}),
        ({"adjust": None}, {"balance": "teacher"}),
        ({"balance": None}, {}),
    ],
)
def test_auto_is_kd_and_feature_at_every_stage(
    case: dict[str, object], options: dict[str, float], of_kd: dict[str, float]
) -> None:
    method, kd = built(Auto(logits=2.0, features=3.0, **options)), built(KD(**of_kd))
    terms = method(**case)
    assert set(terms) == {"logits", "features"}
    assert terms["logits"].item() == pytest.approx(2 * kd(**case)["logits"].item(), rel=1e-6)
    feature = built(Feature(stages=True))
    feature.adapters.load_state_dict(method.parts[1].adapters.state_dict())
    assert terms["features"].item() == pytest.approx(3 * feature(**case)["features"].item(), rel=1e-6)


@pytest.mark.parametrize("temperature", [4.0, 2.0])
def test_cwd(case: dict[str, object], temperature: float) -> None:
    term = built(CWD(weight=3.0, temperature=temperature))(**case)["logits"]
    per_image = []
    for image in range(2):
        x, t = (positions(case[role].logits, image).T for role in ("student", "teacher"))
        divergence = kl((t / temperature).softmax(1), (x / temperature).softmax(1)).sum()
        per_image.append(temperature**2 / 5 * divergence)
    assert term.item() == pytest.approx(3 * torch.stack(per_image).mean().item(), rel=1e-6)


def test_drd(case: dict[str, object]) -> None:
    method = built(DRD(spatial=2.0, channel=3.0))
    terms = method(**case)
    x, t = case["student"].embedding, case["teacher"].embedding
    assert terms["spatial"].item() == pytest.approx(2 * affinity(x, t).item(), rel=1e-6)
    adapted = method.adapters[0](x)
    channel = [(cosines(positions(adapted, i).T) - cosines(positions(t, i).T)).square().mean() for i in range(2)]
    assert terms["channel"].item() == pytest.approx(3 * torch.stack(channel).mean().item(), rel=1e-6)


def test_drd_at_every_stage_is_a_mean_over_places(case: dict[str, object]) -> None:
    terms = built(DRD(spatial=1.0, channel=0.0, stages=True))(**case)
    assert set(terms) == {"spatial"}
    student, teacher = case["student"], case["teacher"]

    def pooled(maps: Tensor) -> Tensor:
        return F.avg_pool2d(maps, 2) if maps.shape[-1] == 18 else maps  # stride 4 is brought to 8

    pairs = [(student.embedding, teacher.embedding), *zip(student.stages, teacher.stages, strict=True)]
    expected = torch.stack([affinity(pooled(x), pooled(t)) for x, t in pairs]).mean()
    assert terms["spatial"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_drds_channel_relation_has_an_adapter_for_every_place(case: dict[str, object]) -> None:
    method = built(DRD(spatial=0.0, channel=3.0, stages=True))
    student, teacher = case["student"], case["teacher"]
    pairs = [(student.embedding, teacher.embedding), *zip(student.stages, teacher.stages, strict=True)]
    places = []
    for adapter, pair in zip(method.adapters, pairs, strict=True):
        x, t = (F.avg_pool2d(maps, 2) if maps.shape[-1] == 18 else maps for maps in pair)
        adapted = adapter(x)
        images = [(cosines(positions(adapted, i).T) - cosines(positions(t, i).T)).square().mean() for i in range(2)]
        places.append(torch.stack(images).mean())
    assert method(**case)["channel"].item() == pytest.approx(3 * torch.stack(places).mean().item(), rel=1e-6)


def test_drd_as_self_attention(case: dict[str, object]) -> None:
    terms = built(DRD(spatial=2.0, channel=0.0, normalize="softmax"))(**case)
    rows = []
    for image in range(2):
        attention = []
        for role in ("student", "teacher"):
            similarity = cosines(positions(case[role].embedding, image))
            others = ~torch.eye(len(similarity), dtype=torch.bool)
            attention.append(similarity[others].view(len(similarity), -1).softmax(1))
        rows.append((attention[0] - attention[1]).square().sum(1))
    assert terms["spatial"].item() == pytest.approx(2 * 81 * torch.cat(rows).mean().item(), rel=1e-6)


def test_brd(case: dict[str, object]) -> None:
    terms = built(BRD(boundary=2.0, relation=3.0, kd=4.0, temperature=0.5))(**case)
    student, teacher = case["student"], case["teacher"]

    boundary = []
    for x, t in zip(student.stages, teacher.stages, strict=True):
        per_image = []
        for image in range(2):
            maps = []
            for features in (x, t):
                ones = torch.ones_like(features[:1, :1])
                kernel = torch.ones(1, 1, 3, 3, dtype=torch.float64)
                count = F.conv2d(ones, kernel, padding=1)
                sums = F.conv2d(features.flatten(0, 1)[:, None], kernel, padding=1).view_as(features)
                energy = (features - sums / count).square().mean(1, keepdim=True)
                flat = positions(energy, image).flatten()
                maps.append(flat / flat.norm())
            per_image.append((maps[0] - maps[1]).square().sum())
        boundary.append(torch.stack(per_image).mean())
    assert terms["boundary"].item() == pytest.approx(2 * torch.stack(boundary).mean().item(), rel=1e-6)

    rows = []
    for image in range(2):
        probabilities = []
        for features in (teacher.embedding, student.embedding):
            similarity = cosines(positions(features, image)) / 0.5
            others = ~torch.eye(len(similarity), dtype=torch.bool)
            probabilities.append(similarity[others].view(len(similarity), -1).softmax(1))
        rows.append(kl(*probabilities))
    assert terms["relation"].item() == pytest.approx(3 * 0.25 * torch.cat(rows).mean().item(), rel=1e-6)
    assert terms["kd"].item() == pytest.approx(4 * pixelwise(student.logits, teacher.logits, 1.0).item(), rel=1e-6)


@pytest.mark.parametrize("operator", ["laplacian", "sobel"])
def test_brd_takes_boundaries_by_its_operator(case: dict[str, object], operator: str) -> None:
    found = built(BRD(operator=operator, relation=0.0, kd=0.0))(**case)["boundary"].item()
    distances = []
    for pair in zip(case["student"].stages, case["teacher"].stages, strict=True):
        x, t = (boundary_map(stage, operator)[:, None] for stage in pair)
        valid = case["valid"][:, :: 72 // x.shape[-1], :: 72 // x.shape[-1]]
        distances.append(boundary_mse(student=x, teacher=t, valid=valid))
    assert found == pytest.approx(torch.stack(distances).mean().item(), rel=1e-6)


@pytest.mark.parametrize("kind", [BRD, KA])
@pytest.mark.parametrize("finer", ["student", "teacher"])
def test_the_finer_embedding_is_averaged_to_stride_8(case: dict[str, object], kind: type, finer: str) -> None:
    """As if its network had shown the average."""
    methods = []
    for stride in (4, 8):
        torch.manual_seed(0)
        method = kind(boundary=0.0, kd=0.0) if kind is BRD else kind()
        infos = dict(zip(("student", "teacher"), networks(), strict=True))
        infos[finer] = dataclasses.replace(
            infos[finer], embedding=dataclasses.replace(infos[finer].embedding, stride=stride)
        )
        method.build(**infos)
        method.double().eval()
        if kind is KA:
            method.prepared.fill_(True)
        methods.append(method)
    fine = F.interpolate(case[finer].embedding, scale_factor=2, mode="nearest")
    fine = fine + torch.randn(18, 18, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    features = [dataclasses.replace(case[finer], embedding=maps) for maps in (fine, F.avg_pool2d(fine, 2))]
    found, expected = (method(**(case | {finer: shown})) for method, shown in zip(methods, features, strict=True))
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value.item(), rel=1e-6)


def test_brd_compares_the_rows_of_its_anchors(case: dict[str, object]) -> None:
    student, teacher = case["student"].embedding, case["teacher"].embedding
    found = built(BRD(boundary=0.0, kd=0.0, relation=2.0, anchors=9))(**case)["relation"].item()
    valid = case["valid"][:, ::8, ::8]
    of_anchors = relation_kl(student=student, teacher=teacher, temperature=0.1, valid=valid, anchors=9).item()
    assert found == pytest.approx(2 * of_anchors, rel=1e-6)
    of_all = relation_kl(student=student, teacher=teacher, temperature=0.1, valid=valid).item()
    assert found != pytest.approx(2 * of_all, rel=1e-3)


def test_brd_keeps_energies_that_half_precision_can_hold(case: dict[str, object]) -> None:
    teacher = case["teacher"]
    faint = Features(tuple(1e-6 * stage for stage in teacher.stages), teacher.embedding, teacher.logits)
    method = built(BRD())
    for index in range(4):
        energy = method.teacher_outputs(faint)[f"boundary.pool.{index}"]
        assert energy.amax((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0])
    terms = method(**(case | {"teacher": faint}))
    assert terms["boundary"].item() == pytest.approx(method(**case)["boundary"].item(), rel=1e-6)


def test_ka(case: dict[str, object]) -> None:
    method = built(KA(adapt=2.0, affinity=3.0))
    method.prepared.fill_(True)
    method.rms.fill_(1.7)
    for block in method.encoder:
        block[1].running_mean.fill_(-0.2)  # otherwise the scale of what is encoded would not show
    terms = method(**case)
    x, t = case["student"].embedding, case["teacher"].embedding
    code = method.encoder(t / 1.7)
    adapted = method.adapt_adapter(x)
    distances = []
    for image in range(2):
        a, b = positions(adapted, image), positions(code, image)
        a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
        distances.append((a - b).abs().sum(1))
    assert terms["adapt"].item() == pytest.approx(2 * torch.cat(distances).mean().item(), rel=1e-6)
    expected = 3 * affinity(method.affinity_adapter(x), code)
    assert terms["affinity"].item() == pytest.approx(expected.item(), rel=1e-6)


def test_afdcd_brings_each_image_of_the_teacher_to_a_mean_square_of_one(case: dict[str, object]) -> None:
    maps = case["teacher"].embedding.float() * torch.tensor([3.0, 1e-3]).view(2, 1, 1, 1)
    scaled = _divided_by_rms(maps, case["valid"][:, ::8, ::8])
    for image in range(2):
        assert positions(scaled, image).square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert (scaled[0, :, :3] == 0).all()  # ignored pixels


def test_afdcd_takes_one_valid_position_for_an_image() -> None:
    maps = torch.tensor([[[[3.0, 9.0]], [[4.0, 9.0]]]])
    scaled = _divided_by_rms(maps, torch.tensor([[[True, False]]]))
    torch.testing.assert_close(scaled, torch.tensor([[[[3.0, 0.0]], [[4.0, 0.0]]]]) / 12.5**0.5)


def test_afdcd_keeps_the_largest_valid_value_of_each_window() -> None:
    maps = torch.tensor([[[[1.0, 5.0, 2.0], [3.0, 4.0, 8.0], [7.0, 6.0, 9.0]]]])
    inside = torch.tensor([[[True, True, True], [True, True, False], [True, True, False]]])
    assert AfDCD(pool=2)._pooled(maps, inside).tolist() == [[[[5.0, 2.0], [7.0, 0.0]]]]
    assert AfDCD(pool=3)._pooled(maps, inside).tolist() == [[[[7.0]]]]
    assert AfDCD(pool=1)._pooled(maps, inside).equal(maps)


def test_idd_knows_the_middle_of_each_position() -> None:
    rows, columns = _coordinates(torch.zeros(1, 1, 2, 4))[0]
    assert rows.tolist() == [[-0.5] * 4, [0.5] * 4]
    assert columns.tolist() == [[-0.75, -0.25, 0.25, 0.75]] * 2
    assert _coordinates(torch.zeros(1, 1, 2, 4, device="meta")).device.type == "meta"
