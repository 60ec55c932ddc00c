from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segdistill import UserError
from segdistill.inspection.check import check_data
from tests.inspection.trees import areas, folder_data, picture, save, sound_camvid, sound_tree


def test_shares_are_of_all_pixels(tmp_path: Path) -> None:
    root = sound_tree(tmp_path / "data")
    save(np.full((48, 64), 255, np.uint8), root / "masks/train/train0.png")
    report = check_data(data=folder_data(root), output=tmp_path / "report.json", quiet=True)
    masks = np.stack([np.asarray(Image.open(path)) for path in sorted((root / "masks/train").iterdir())])
    train = json.loads((tmp_path / "report.json").read_text())["splits"]["train"]
    for label, name in enumerate(("road", "roof", "tree")):
        assert train["share"][name] == pytest.approx((masks == label).mean())
    assert train["ignored"] == pytest.approx(0.25)
    assert train["sizes"] == [{"height": 48, "width": 64, "images": 4}]
    assert report.as_dict() == json.loads((tmp_path / "report.json").read_text())


def test_mostly_ignored(tmp_path: Path) -> None:
    root = sound_tree(tmp_path)
    for path in root.glob("masks/train/*"):
        labels = np.array(Image.open(path))
        labels[:40] = 255
        save(labels, path)
    kinds = [(finding.kind, finding.severity) for finding in check_data(data=folder_data(root), quiet=True).findings]
    assert ("mostly-ignored", "warning") in kinds


def test_a_copy_in_another_format_is_found(tmp_path: Path) -> None:
    root = sound_tree(tmp_path)
    save(picture(1), root / "images/val/copy.jpg", quality=60)
    save(areas(3, 1), root / "masks/val/copy.png")
    (finding,) = check_data(data=folder_data(root), quiet=True).findings
    assert (finding.kind, finding.severity) == ("re-encoded-image", "error")
    assert finding.files == (f"{root}/images/train/train1.png = {root}/images/val/copy.jpg",)


def test_as_many_names_as_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sound_tree(tmp_path / "data", train=8)
    for path in root.glob("masks/train/*"):
        path.write_bytes(b"")
    report = check_data(data=folder_data(root), names=3, output=tmp_path / "report.json")
    lines = capsys.readouterr().out.splitlines()
    assert sum("masks/train/train" in line for line in lines) == 3
    assert "    ... and 5 more" in lines
    assert len(report.findings[0].files) == len(report.as_dict()["findings"][0]["files"]) == 8


def test_nothing_is_printed_when_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    check_data(data=folder_data(sound_tree(tmp_path)), quiet=True)
    assert capfd.readouterr() == ("", "")


def test_what_is_unknown_is_not_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sound_tree(tmp_path)
    for path in root.glob("masks/train/*"):
        path.write_bytes(b"")
    check_data(data=folder_data(root))
    row = next(line for line in capsys.readouterr().out.splitlines() if "0 road" in line)
    assert row.split("│")[2].strip() == "-"
    assert row.split("│")[3].strip().endswith("%")


def test_resize_and_cache_change_nothing(tmp_path: Path) -> None:
    root = sound_tree(tmp_path / "data")
    whole = check_data(data=folder_data(root), quiet=True)
    small = check_data(data=folder_data(root, resize=[12, 16]), quiet=True)
    assert small.splits["train"].sizes == whole.splits["train"].sizes
    assert small.splits["train"].counts.pixels.tolist() == whole.splits["train"].counts.pixels.tolist()


def test_camvid(tmp_path: Path) -> None:
    root = sound_camvid(tmp_path)
    data = {"dataset": "camvid", "root": str(root)}
    report = check_data(data=data, quiet=True)
    assert report.findings == ()
    assert report.splits["train"].counts.ignored > 0
    (root / "trainannot/train1.png").unlink()
    (root / "val/val0.png").write_text("no image")
    save(np.full((48, 64), 30, np.uint8), root / "trainannot/train0.png")
    found = {finding.kind: finding.files for finding in check_data(data=data, quiet=True).findings}
    assert found["missing-mask"] == (f"{root}/train/train1.png",)
    assert found["unreadable"][0].startswith(f"{root}/val/val0.png cannot be read")
    assert found["unknown-value"] == (f"{root}/trainannot/train0.png: 30",)


def test_camvid_lists(tmp_path: Path) -> None:
    root = sound_camvid(tmp_path)
    (root / "train.txt").write_text(
        "/SegNet/CamVid/train/train0.png /SegNet/CamVid/trainannot/train0.png\n"
        "train/train7.png trainannot/train1.png\nalone.png\n"
    )
    found = {f.kind: f.files for f in check_data(data={"dataset": "camvid", "root": str(root)}, quiet=True).findings}
    assert found["bad-line"] == (f"'alone.png' in {root}/train.txt",)
    assert found["missing-image"] == (f"{root}/train/train7.png",)


def test_data_sets_without_files() -> None:
    data = {"dataset": "synthetic-aerial", "count": 6, "size": [64, 64]}
    report = check_data(data=data, quiet=True)
    assert report.ok
    assert sum(report.splits["val"].counts.shares.tolist()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "the key 'dataset' is missing"),
        ({"dataset": "foldr"}, "did you mean 'folder'"),
        ({"dataset": "folder", "rot": "x"}, "unknown key in data: 'rot': did you mean 'root'"),
        ({"dataset": "folder", "root": "x"}, "the key 'classes' is missing"),
        ({"dataset": "folder", "root": "nowhere", "classes": ["a", "b"]}, "nowhere does not exist"),
        ({"dataset": "folder", "root": ".", "classes": ["a"]}, "expected 2 to 254"),
        ({"dataset": "folder", "root": ".", "classes": ["a", "b"], "palette": ["#ff0000"]}, "1 colours for 2 classes"),
    ],
)
def test_wrong_keywords_are_no_findings(data: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_data(data=data, quiet=True)
