"""The published data sets, where they are: ``SEGDISTILL_DATA`` names the folder of camvid/ and idd_lite/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from segdistill.datasets import CamVid, Folder, check_dataset

pytestmark = pytest.mark.real_data

IDD_LITE = ("drivable", "non_drivable", "living_things", "vehicles", "roadside_objects", "far_objects", "sky")


@pytest.fixture
def data() -> Path:
    if "SEGDISTILL_DATA" not in os.environ:
        pytest.skip("SEGDISTILL_DATA names no folder with camvid/ and idd_lite/")
    return Path(os.environ["SEGDISTILL_DATA"])


def test_camvid_has_its_published_size_and_class_shares(data: Path) -> None:
    train, val = CamVid(data / "camvid"), CamVid(data / "camvid", split="val")
    assert (len(train), len(val)) == (367, 101)
    assert train[0][0].shape == (3, 360, 480)
    counts = check_dataset(train)
    published = torch.tensor([16.8, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3])
    torch.testing.assert_close(100 * counts.shares.float(), published, atol=0.06, rtol=0)
    assert 100 * (1 - counts.shares.sum()) == pytest.approx(3.9, abs=0.06)


def test_idd_lite_has_its_published_size_and_class_shares(data: Path) -> None:
    train, val = (Folder(data / "idd_lite", IDD_LITE, split=split) for split in ("train", "val"))
    assert (len(train), len(val)) == (1285, 118)
    assert val[0][0].shape == (3, 227, 320)
    counts = check_dataset(train)
    # The table does not say of which split it is; the splits differ, hence the tolerance.
    published = torch.tensor([32.3, 2.2, 1.3, 8.1, 11.3, 25.7, 19.0])
    torch.testing.assert_close(100 * counts.shares.float(), published, atol=0.4, rtol=0)
