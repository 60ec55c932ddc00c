from __future__ import annotations

import pytest
import torch

from segdistill.colors import default_palette, parse_color
from segdistill.datasets import SegmentationDataset
from segdistill.errors import UserError


class Blank(SegmentationDataset):
    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.int64)


def test_the_default_palette_has_a_colour_of_its_own_for_each_of_255_classes() -> None:
    assert len(set(default_palette(255))) == 255


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"classes": ["road"]}, r"classes names 1 \(road\); expected 2 to 254"),
        ({"classes": [str(n) for n in range(256)]}, "classes names 256"),
        ({"classes": ["road", " "]}, "classes has no name for the class 1"),
        ({"classes": ["road", "sky", "road"]}, "names 'road' more than once"),
        ({"classes": "road"}, "classes must be a list of names, found 'road'"),
        ({"classes": ["no", False]}, "classes must be a list of names"),
        ({"classes": ["a", "b"], "palette": ["#000000"]}, r"palette has 1 colours for 2 classes \(a, b\)"),
        ({"classes": ["a", "b"], "palette": ["#0a0000", [10, 0, 0]]}, "#0a0000 to both 'a' and 'b'"),
    ],
)
def test_wrong_classes_and_palettes_are_refused(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        Blank(ids=["x"], **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("color", ["red", "#12345", [1, 2], [1, 2, 256], [1, 2, -3], [1.5, 2, 3], 7, None])
def test_what_is_no_colour_is_refused(color: object) -> None:
    with pytest.raises(UserError, match=r"palette holds .*; expected \[red, green, blue\]"):
        parse_color(color, argument="palette")  # type: ignore[arg-type]
