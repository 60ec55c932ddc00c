"""Images that are resized strip by strip are those that are resized whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from segdistill.datasets.base import Window
from segdistill.datasets.reading import strips
from segdistill.datasets.reading.images import resized
from segdistill.datasets.reading.strips import read_resized


@pytest.mark.parametrize("resize", [(10, 14), (37, 53), (97, 61), (211, 150), (1, 1), (300, 7)])
@pytest.mark.parametrize(("channels", "dtype"), [(3, torch.uint8), (2, torch.uint8), (4, torch.float32)])
def test_strips_make_the_same_image(
    resize: tuple[int, int], channels: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    image = (255 * torch.rand(channels, 211, 61, generator=generator)).to(dtype)
    monkeypatch.setattr(strips, "STRIP_PIXELS", 900)
    rows: list[int] = []

    def read(window: Window) -> Tensor:
        rows.append(window.height)
        return window.cut(image)

    found, whole = read_resized(read, (211, 61), resize), resized(image, resize)
    assert found.shape == whole.shape
    assert found.dtype == whole.dtype
    # Coordinates are rounded otherwise: now and then a level, or a little of one, is another.
    difference = (found.float() - whole.float()).abs()
    assert difference.max() <= (1 if dtype == torch.uint8 else 1e-3)
    assert difference.mean() < 0.01
    if resize[0] > 30:
        assert len(rows) > 5
        assert max(rows) < 40
