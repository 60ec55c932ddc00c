"""What can be wrong with files: found by the check, all of it at once, and told of by a training."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import segdistill
from segdistill import UserError
from segdistill.inspection.check import check_data
from segdistill.recipe.train_config import TrainConfig
from tests.inspection.damaged_files import OF_FILES
from tests.inspection.damaged_pixels import OF_PIXELS
from tests.inspection.damaging import (
    RUNS,
    Damage,
    image,
    mask,
)
from tests.inspection.trees import areas, folder_data, save, sound_tree

TINY = "python:tests.tiny:build_tiny"
ONE_EPOCH = TrainConfig(epochs=1, batch_size=2, precision="fp32", workers=0)


DAMAGES = OF_FILES | OF_PIXELS


@pytest.fixture(params=DAMAGES)
def damage(request: pytest.FixtureRequest) -> Damage:
    return DAMAGES[request.param]


def test_check_tells_of_it_alone(damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One damage is no reason for a second error, but where one follows from the other."""
    root = sound_tree(tmp_path / "data")
    damage.do(root)
    report = check_data(data=folder_data(root, **damage.data), names=50, output=tmp_path / "report.json")
    told = [finding for finding in report.findings if finding.kind == damage.kind]
    assert told
    assert {finding.severity for finding in told} == {damage.severity}
    assert any(damage.named in file for finding in told for file in finding.files or ("",))
    errors = {finding.kind for finding in report.findings if finding.severity == "error"}
    assert errors == ({damage.kind} if damage.severity == "error" else set()) | damage.follows
    assert report.ok == (not errors)
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert all(finding.advice in printed.out for finding in told)
    assert (tmp_path / "report.json").is_file()


def test_what_a_training_does(damage: Damage, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One sentence and nothing written, or one warning, or not a word."""
    root = sound_tree(tmp_path / "data")
    damage.do(root)
    data = folder_data(root, **damage.data)

    def train() -> None:
        segdistill.train(
            data=data | {"crop": [32, 32]}, network=TINY, output=tmp_path / "run", train=ONE_EPOCH, device="cpu"
        )

    if damage.sentence == RUNS:
        told = [finding for finding in check_data(data=data, quiet=True).findings if finding.severity != "note"]
        train()
        printed = capfd.readouterr()
        warnings = [line for line in printed.out.splitlines() if line.startswith("warning: ")]
        warnings = [line for line in warnings if "no pixel was predicted correctly" not in line]
        assert len(warnings) == len(told)
        assert all(sum(finding.advice in line for line in warnings) == 1 for finding in told)
        assert all(damage.named in line for line in warnings)
    else:
        with pytest.raises(UserError) as error:
            train()
        assert damage.sentence in str(error.value)
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()
        printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err


def test_the_tree_is_sound(tmp_path: Path) -> None:
    """What the damages are done to gives no finding of any kind."""
    report = check_data(data=folder_data(sound_tree(tmp_path / "data")), quiet=True)
    assert report.findings == ()
    assert report.ok


def test_all_at_once(tmp_path: Path) -> None:
    """The first broken file hides none of the others."""
    root = sound_tree(tmp_path / "data", train=12)
    for number, name in enumerate(
        ["zero bytes image", "truncated mask", "mask of another size", "image of 16 bits", "mask with alpha"]
    ):
        target = tmp_path / f"one{number}"
        sound_tree(target)
        DAMAGES[name].do(target)
        for side in ("images", "masks"):
            shutil.copy(target / side / "train/train1.png", root / side / f"train/train{number}.png")
    mask(root, "train7.png").unlink()
    save(areas(3) * 90, mask(root, "train8.png"))
    image(root, "train9.png").write_bytes(b"")
    mask(root, "train9.png").write_bytes(b"")
    report = check_data(data=folder_data(root), quiet=True)
    files = {finding.kind: len(finding.files) for finding in report.findings if finding.severity == "error"}
    assert files == {
        "unreadable": 4,
        "other-size": 1,
        "deep-image": 1,
        "mask-kind": 1,
        "missing-mask": 1,
        "unknown-value": 1,
    }
