from __future__ import annotations

import numpy as np
import pytest
import torch

from segdistill.datasets import SyntheticAerial, check_dataset
from segdistill.datasets.synthetic.scene import draw_scene
from segdistill.errors import UserError


def test_a_scene_is_a_function_of_seed_split_and_index_alone() -> None:
    backward = SyntheticAerial(count=8, seed=5)
    state = torch.random.get_rng_state()
    scenes = [backward[index] for index in (2, 1, 0)][::-1]
    assert torch.random.get_rng_state().equal(state)
    del backward  # or its scenes would be shared
    forward = SyntheticAerial(count=3, seed=5)
    for index, (image, labels) in enumerate(scenes):
        assert forward[index][0].equal(image)
        assert forward[index][1].equal(labels)


def test_a_scene_is_drawn_once_while_a_data_set_of_its_kind_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, ...]] = []

    def counted(generator: np.random.Generator, *size: int) -> tuple[np.ndarray, np.ndarray]:
        drawn.append(size)
        return draw_scene(generator, *size)

    monkeypatch.setattr("segdistill.datasets.synthetic_aerial.draw_scene", counted)
    first = SyntheticAerial(count=2, size=(32, 48), seed=9)
    scene = first[1]
    assert SyntheticAerial(count=3, size=(32, 48), seed=9)[1][0].equal(scene[0])
    assert SyntheticAerial(count=3, size=(32, 48), seed=9)[-2][0].equal(scene[0])
    assert len(drawn) == 1
    for other in ({"seed": 8}, {"split": "val"}, {"size": (48, 32)}):
        image, _ = SyntheticAerial(**{"count": 2, "size": (32, 48), "seed": 9} | other)[1]  # type: ignore[arg-type]
        assert not image.equal(scene[0]) or image.shape != scene[0].shape
    assert len(drawn) == 4
    del first
    assert SyntheticAerial(count=2, size=(32, 48), seed=9)[1][0].equal(scene[0])
    assert len(drawn) == 5


def test_seeds_splits_and_indices_give_different_scenes() -> None:
    scenes = [
        SyntheticAerial(split, count=2, size=(64, 64), seed=seed)[index][1]
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for index in (0, 1)
    ]
    for number, scene in enumerate(scenes):
        assert not any(scene.equal(other) for other in scenes[:number])


def test_all_six_classes_occur_and_none_swallows_the_rest() -> None:
    counts = check_dataset(SyntheticAerial("val", count=20))
    assert counts.ignored == 0
    assert counts.shares.min() > 0.003
    assert counts.shares.max() < 0.65


def test_boundaries_show_in_the_image() -> None:
    """Neighbours of different class differ more in colour than neighbours of one class."""
    across, within = [], []
    for image, labels in (SyntheticAerial(count=6)[index] for index in range(6)):
        step = (image[:, :, 2:].float() - image[:, :, :-2].float()).abs().mean(0)
        edge = labels[:, 2:] != labels[:, :-2]
        across.append(step[edge].mean())
        within.append(step[~edge].mean())
    assert torch.stack(across).mean() > 2 * torch.stack(within).mean()


def test_what_is_kept_cannot_be_changed_from_outside() -> None:
    dataset = SyntheticAerial(count=1, size=(32, 32))
    image, labels = dataset[0]
    original = image.clone(), labels.clone()
    image.zero_()
    labels.zero_()
    assert dataset[0][0].equal(original[0])
    assert dataset[0][1].equal(original[1])


@pytest.mark.parametrize("size", [(32, 32), (48, 200), (131, 97)])
def test_any_size_can_be_drawn(size: tuple[int, int]) -> None:
    dataset = SyntheticAerial(count=4, size=size)
    for index in range(4):
        image, labels = dataset[index]
        assert image.shape == (3, *size)
        assert labels.shape == size
    with pytest.raises(IndexError):
        dataset[4]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"split": "trian"}, "unknown split of synthetic-aerial 'trian': did you mean 'train'"),
        ({"count": 0}, "count is 0, so the split is empty"),
        ({"size": (16, 64)}, r"size is \(16, 64\); expected \[height, width\], at least 32"),
        ({"seed": -1}, "seed is -1; expected 0 or more"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SyntheticAerial(**arguments)  # type: ignore[arg-type]
