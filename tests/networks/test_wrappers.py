"""Networks seen through something: chosen channels, other classes, the mean of several. Against plain formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill import Distiller, Network, UserError, load_network
from segdistill.methods import METHODS
from segdistill.networks.bands import SelectedBands
from segdistill.networks.classes import MappedClasses
from segdistill.networks.ensemble import Ensemble
from segdistill.networks.identity import network_digest
from segdistill.networks.padding import pad_to_multiple
from segdistill.networks.side_by_side import SideBySide
from segdistill.networks.size import count_macs, count_parameters
from tests.tiny import tiny_network

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
OURS = ("road", "car")


def mapped(network: Network, mapping: dict[Any, Any], classes: Sequence[str] = OURS) -> MappedClasses:
    return MappedClasses(network, mapping, classes)


def merged(probabilities: Tensor, groups: list[list[int]]) -> Tensor:
    """Probabilities added up in float64 and divided by their sum."""
    sums = torch.stack([sum(probabilities.double()[:, label] for label in group) for group in groups], 1)
    return sums / sums.sum(1, keepdim=True)


def test_chosen_channels_in_their_order() -> None:
    network = tiny_network(in_channels=3).eval()
    network.set_normalization([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    images = torch.rand(2, 5, 64, 64)
    seen = SelectedBands(network, [4, 1, 4], in_channels=5)
    own = images[:, [3, 0, 3]]
    assert (seen.info.in_channels, seen.description.in_channels, seen.num_classes) == (5, 5, 5)
    assert torch.equal(seen(images), network(own))
    logits, features = seen.forward_with_features(images)
    assert torch.equal(logits, network(own))
    assert torch.equal(features.embedding, network.features(own).embedding)
    assert torch.equal(seen.features(images).logits, network.features(own).logits)
    assert seen.mean is None
    assert network.mean is not None


def test_eight_bits_are_seen_as_by_the_network_itself() -> None:
    network = tiny_network(in_channels=3).eval()
    network.set_normalization([0.4, 0.5, 0.6], [0.1, 0.2, 0.3])
    images = torch.randint(0, 256, (1, 4, 64, 64), dtype=torch.uint8)
    assert torch.equal(SelectedBands(network, [1, 2, 3], 4)(images), network(images[:, :3]))


@pytest.mark.parametrize(
    ("bands", "told"),
    [
        ([1, 2, 6], r"is \[1, 2, 6\], expected numbers from 1 to 5: the images of the data have 5 channels"),
        ([0, 1, 2], r"is \[0, 1, 2\], expected numbers from 1 to 5"),
        ([1, 2], r"is \[1, 2\], expected 3 numbers: it takes 3 channels"),
    ],
)
def test_channels_that_are_not_there(bands: list[int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        SelectedBands(tiny_network(), bands, in_channels=5)


def test_images_of_other_channels() -> None:
    with pytest.raises(UserError, match=r"expected \(B, 5, H, W\): this network takes 5 channels"):
        SelectedBands(tiny_network(), [1, 2, 3], in_channels=5)(IMAGES)


def test_probabilities_are_added_up() -> None:
    network = tiny_network(classes=5).eval()
    seen = mapped(network, {0: "car", 1: "road", 2: "car", 3: "ignore", 4: "car"})
    assert (seen.num_classes, seen.info.logits.channels, seen.description.classes) == (2, 2, OURS)
    for found, own in (
        (seen(IMAGES), network(IMAGES)),
        (seen.features(IMAGES).logits, network.features(IMAGES).logits),
        (seen.forward_with_features(IMAGES)[1].logits, network.features(IMAGES).logits),
    ):
        expected = merged(own.softmax(1), [[1], [0, 2, 4]])
        torch.testing.assert_close(found.softmax(1).double(), expected, rtol=1e-5, atol=1e-6)


def test_a_mere_reordering_changes_no_score() -> None:
    network = tiny_network(classes=3).eval()
    seen = mapped(network, {0: "c", 1: "a", 2: "b"}, "abc")
    assert torch.equal(seen(IMAGES), network(IMAGES)[:, [1, 2, 0]])


def test_merged_scores_far_below_the_others_are_finite() -> None:
    class Sure(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 1)
            self.out = nn.Identity()

        def forward(self, images: Tensor) -> Tensor:
            low = self.stem(images) * 0 + torch.tensor([5e4, -5e4, -5e4, 0.0]).view(1, 4, 1, 1)
            return self.out(low)

    network = Network(Sure(), stages=["stem"], embedding="stem", logits="out")
    found = mapped(network, {0: "road", 1: "car", 2: "car", 3: "ignore"})(IMAGES)
    assert torch.isfinite(found).all()
    assert torch.equal(found.argmax(1), torch.zeros(2, 64, 96, dtype=torch.long))


@pytest.mark.parametrize(
    "specs", [("smp:FPN:resnet18", "torchvision:lraspp_mobilenet_v3_large", "transformers:segformer?depths=[1,1,1,1]")]
)
def test_three_libraries_at_once(specs: tuple[str, ...]) -> None:
    """Other grids of the logits, and sizes that no multiple divides: all see the same padded image."""
    networks = [load_network(spec, num_classes=4).eval() for spec in specs]
    both = Ensemble(networks, weights=[2, 1, 1])
    images = torch.rand(1, 3, 60, 90)
    padded = pad_to_multiple(images, both.multiple)
    expected = sum(
        share * network(padded)[..., :60, :90].double().softmax(1)
        for share, network in zip((0.5, 0.25, 0.25), networks, strict=True)
    )
    torch.testing.assert_close(both(images).exp().double(), expected, rtol=1e-4, atol=1e-5)
    logits, features = both.forward_with_features(images)
    torch.testing.assert_close(logits, both(images))
    assert torch.equal(features.logits, both.features(images).logits)
    assert both.info.logits.stride == min(network.info.logits.stride for network in networks)
    assert features.logits.shape[-2:] == (64 // 4, 96 // 4)
    torch.testing.assert_close(features.logits.exp().sum(1), torch.ones_like(features.logits[:, 0]))
    assert count_parameters(both) == sum(map(count_parameters, networks))


def test_probabilities_meet_at_the_finest_grid() -> None:
    fine, coarse = tiny_network(stride=4, classes=3).eval(), tiny_network(stride=16, classes=3, seed=1).eval()
    found = Ensemble([coarse, fine]).features(IMAGES).logits
    resized = nn.functional.interpolate(coarse.features(IMAGES).logits, size=(16, 24), mode="bilinear")
    expected = (resized.softmax(1) + fine.features(IMAGES).logits.softmax(1)) / 2
    torch.testing.assert_close(found.exp(), expected)


def test_one_teacher_of_each_kind_behind_the_other() -> None:
    """Bands, then classes, then the mean: five channels seen by a teacher of three, and by one of five."""
    three, five = tiny_network(classes=4).eval(), tiny_network(classes=2, in_channels=5, seed=2).eval()
    five.description = type(five.description)(**{**five.description.as_dict(), "classes": OURS})
    seen = mapped(SelectedBands(three, [3, 2, 1], 5), {0: "road", 1: "car", 2: "car", 3: "car"})
    images = torch.rand(1, 5, 32, 32)
    rgb = three(images[:, [2, 1, 0]]).softmax(1)
    expected = (torch.stack([rgb[:, 0], rgb[:, 1:].sum(1)], 1) + five(images).softmax(1)) / 2
    both = Ensemble([seen, five])
    torch.testing.assert_close(both(images).exp(), expected)
    assert count_macs(both, 32) == count_macs(three, 32) + count_macs(five, 32)


@pytest.mark.parametrize(
    ("networks", "weights", "told"),
    [
        ([tiny_network()], None, "an ensemble of 1 networks is given, expected 2 or more"),
        ([tiny_network(), tiny_network(seed=1)], [1, 0], r"weights of an ensemble are \[1, 0\], expected 2 numbers"),
        ([tiny_network(), tiny_network(seed=1)], [1], "expected 2 numbers above 0"),
        ([tiny_network(), tiny_network(classes=4)], None, "network 2 of an ensemble has 4 classes, but the first one"),
        (
            [tiny_network(), tiny_network(in_channels=4)],
            None,
            "network 2 of an ensemble takes 4 channels, but the first 3",
        ),
    ],
)
def test_networks_that_do_not_go_together(networks: list[Network], weights: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Ensemble(networks, weights)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_several_teachers_teach_their_class_scores_alone(name: str) -> None:
    """Every method either learns from the mean as from one network of those scores, or says that it cannot."""
    student = tiny_network(seed=3)
    method = METHODS[name]()
    teachers = [tiny_network(stride=8), tiny_network(stride=16, seed=1)]
    if method.needs_embedding or method.needs_stages:
        with pytest.raises(
            UserError, match=f"method {method.name} compares features .*, but the teacher gives only class scores"
        ):
            Distiller(teachers, student, method)
        return
    labels = torch.randint(0, 5, (2, 64, 96))
    distiller = Distiller(teachers, student, method)
    distiller.prepare([IMAGES])
    out = distiller(IMAGES, labels)
    out.loss.backward()
    assert all(torch.isfinite(loss) for loss in out.losses.values())


def test_a_hash_knows_what_is_made_of_a_network() -> None:
    one, other = tiny_network(), tiny_network(seed=1)
    made = [
        one,
        SelectedBands(one, [1, 2, 3], 5),
        SelectedBands(one, [3, 2, 1], 5),
        mapped(one, {0: "road", 1: "car", 2: "car", 3: "car", 4: "car"}),
        mapped(one, {0: "road", 1: "road", 2: "car", 3: "car", 4: "car"}),
        Ensemble([one, other]),
        Ensemble([one, other], [2, 1]),
    ]
    assert len({network_digest(network) for network in made}) == len(made)


def test_a_student_that_is_also_one_of_the_teachers() -> None:
    student = tiny_network()
    with pytest.raises(UserError, match="teacher and student are the same module"):
        Distiller([tiny_network(seed=1), student], student, "kd")


# ------------------------------------------------------------------------------------------------ side by side


def test_features_stand_side_by_side() -> None:
    networks = [tiny_network(4, 32, seed=1).eval(), tiny_network(6, 8, classes=3, seed=2).eval()]
    both = SideBySide(networks).eval()
    assert [stage.channels for stage in both.info.stages] == [10, 20, 30, 40]
    assert [stage.stride for stage in both.info.stages] == [4, 8, 8, 8]
    assert (both.info.embedding.channels, both.info.embedding.stride, both.info.num_classes) == (20, 8, 0)
    images = torch.rand(2, 3, 64, 96)
    shown, (coarse, fine) = both.features(images), [network.features(images) for network in networks]
    assert shown.logits.shape[1] == 0
    for maps, first, second in zip(
        (*shown.stages, shown.embedding),
        (*coarse.stages, coarse.embedding),
        (*fine.stages, fine.embedding),
        strict=True,
    ):
        size = tuple(second.shape[-2:])
        expected = F.interpolate(first, size=size, mode="bilinear", align_corners=False)
        torch.testing.assert_close(maps, torch.cat([expected, second], 1))


def test_stages_of_like_stride_stand_side_by_side_where_one_has_fewer() -> None:
    model = tiny_network(6, 32, seed=2).model
    few = Network(model, stages=["layers.1", "layers.3"], embedding="head", logits="classifier")
    both = SideBySide([tiny_network(4, 32), few])
    assert [stage.channels for stage in both.info.stages] == [4 + 12, 8 + 12, 12 + 12, 16 + 24]
    assert [stage.stride for stage in both.info.stages] == [4, 8, 8, 32]


def test_what_cannot_stand_side_by_side_is_refused() -> None:
    one, other = tiny_network(), tiny_network(in_channels=5)
    with pytest.raises(UserError, match="1 networks are given to stand side by side, expected 2 or more"):
        SideBySide([one])
    with pytest.raises(UserError, match="teacher 2 takes 5 channels, but the first one 3; choose what each sees"):
        SideBySide([one, other])
    with pytest.raises(UserError, match="teacher 2 shows no features, only class scores; leave it out"):
        SideBySide([one, Ensemble([one, tiny_network(seed=1)])])


@pytest.mark.parametrize("given", [None, 5, [None, None], ["a", "b"]], ids=repr)
def test_an_ensemble_of_other_things(given: Any) -> None:
    with pytest.raises(UserError, match=r"^(an ensemble of|the network 1 of an ensemble is a) .*, expected a"):
        Ensemble(given)


@pytest.mark.parametrize("given", [None, 5, "ignore", [1, 2]], ids=repr)
def test_a_class_map_that_is_no_mapping(given: Any) -> None:
    with pytest.raises(UserError, match=r"^teacher_classes is .*, expected a mapping of each class of the teacher"):
        mapped(tiny_network(), given)


@pytest.mark.parametrize("given", [None, 5], ids=repr)
def test_chosen_channels_that_are_no_list(given: Any) -> None:
    with pytest.raises(UserError, match=r"^teacher_bands of the teacher is .*, expected a list of numbers of bands"):
        SelectedBands(tiny_network(), given, in_channels=3)


def test_plain_models_are_wrapped() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    plain = smp.FPN("resnet18", encoder_weights=None, classes=2).eval()
    own = load_network("smp:FPN:resnet18", num_classes=2).eval()
    probabilities = Ensemble([plain, own])(IMAGES).exp()
    with torch.no_grad():
        expected = (plain(IMAGES).softmax(1) + own(IMAGES).softmax(1)) / 2
    assert torch.allclose(probabilities, expected, atol=1e-5)
    assert torch.allclose(SelectedBands(plain, [3, 1, 2], 3)(IMAGES), plain(IMAGES[:, [2, 0, 1]]), atol=1e-5)
    swapped = MappedClasses(plain, {0: "car", 1: "road"}, OURS)(IMAGES)
    assert torch.allclose(swapped, plain(IMAGES)[:, [1, 0]], atol=1e-5)
    with pytest.raises(UserError, match="the teacher is a str, expected a segdistill Network or a torch module"):
        MappedClasses("runs/teacher", {}, OURS)  # type: ignore[arg-type]
