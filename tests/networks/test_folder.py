import json
from pathlib import Path

import pytest
import torch

from segdistill.errors import UserError
from segdistill.networks.loading import load_network, load_run
from tests.networks.tiny import tiny_network

SPEC = "python:tests.networks.tiny:make_tiny"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    load_network(SPEC, num_classes=5).save(tmp_path / "net")
    return tmp_path / "net"


def edit(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "network.json").read_text())
    (folder / "network.json").write_text(json.dumps(card | changes))


def test_the_card(saved: Path) -> None:
    assert json.loads((saved / "network.json").read_text()) == {
        "format": 1,
        "spec": SPEC,
        "num_classes": 5,
        "in_channels": 3,
        "mean": None,
        "std": None,
    }


def test_mean_and_std_come_back(tmp_path: Path) -> None:
    network = load_network(SPEC, num_classes=5)
    network.set_normalization([0.485, 0.456, 0.406], [0.1, 0.2, 0.3])
    network.save(tmp_path)
    loaded = load_run(tmp_path)
    assert loaded.mean is not None
    assert torch.equal(loaded.mean, network.mean)
    assert json.loads((tmp_path / "network.json").read_text())["mean"] == [0.485, 0.456, 0.406]


def test_a_loaded_run_is_ready_to_predict_and_a_loaded_network_to_train(saved: Path) -> None:
    assert not any(module.training for module in load_run(saved).modules())
    assert all(module.training for module in load_network(saved).modules())


def test_saving_again_replaces_the_network_and_leaves_other_files(saved: Path) -> None:
    (saved / "history.csv").write_text("epoch\n")
    network = load_network(SPEC, num_classes=7)
    network.save(saved)
    assert load_network(saved).num_classes == 7
    assert sorted(file.name for file in saved.iterdir()) == [
        "history.csv",
        "model.safetensors",
        "network.json",
    ]


def test_a_save_that_fails_leaves_the_old_network(saved: Path) -> None:
    def write(_network: object, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    with pytest.raises(UserError, match=r"cannot save a network to .*: No space left on device"):
        tiny_network(write=write).save(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


def test_a_network_wrapped_by_hand_is_built_again_by_hand(tmp_path: Path) -> None:
    network = tiny_network().eval()
    network.save(tmp_path)
    with pytest.raises(UserError, match=r"wrapped by hand .* call network.load_weights\("):
        load_network(tmp_path)
    again = tiny_network().eval()
    images = torch.rand(1, 3, 32, 32)
    assert not torch.equal(again(images), network(images))
    again.load_weights(tmp_path)
    assert torch.equal(again(images), network(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, this segdistill reads format 1"),
        ({"num_classes": 0}, "num_classes is 0, expected a whole number of at least 1"),
        ({"in_channels": "three"}, "in_channels is 'three', expected a whole number"),
        ({"spec": 5}, "spec is 5, expected a network spec or null"),
        ({"spec": "keras:unet"}, "spec is 'keras:unet', expected one of smp, torchvision"),
        (
            {"num_classes": 6},
            r"does not fit this network: .*classifier.weight \(5, 16, 1, 1\) instead of \(6",
        ),
        ({"mean": [0.5]}, "expected 3 values each"),
    ],
)
def test_a_card_that_is_wrong(saved: Path, changes: dict[str, object], message: str) -> None:
    edit(saved, **changes)
    with pytest.raises(UserError, match=message):
        load_network(saved)


def test_a_card_that_is_damaged(saved: Path) -> None:
    card = (saved / "network.json").read_text()
    (saved / "network.json").write_text(card[:40])
    with pytest.raises(UserError, match=r"network.json is damaged"):
        load_network(saved)
    (saved / "network.json").write_text('{"format": 1, "spec": null}')
    with pytest.raises(UserError, match=r"network.json lacks num_classes, in_channels, mean, std"):
        load_network(saved)
    (saved / "network.json").write_text("[]")
    with pytest.raises(UserError, match=r"network.json lacks format"):
        load_network(saved)


def test_files_that_are_missing_or_truncated(saved: Path) -> None:
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or truncated"):
        load_network(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights: model.safetensors is missing"):
        load_network(saved)
    (saved / "network.json").unlink()
    with pytest.raises(UserError, match=r"holds no saved network: network.json is missing"):
        load_network(saved)
    with pytest.raises(UserError, match=r"network folder .*nowhere does not exist"):
        load_run(saved / "nowhere")


def test_what_was_asked_for_and_what_the_folder_holds_disagree(saved: Path) -> None:
    with pytest.raises(UserError, match=r"has 5 classes, expected num_classes=6"):
        load_network(saved, num_classes=6)
    with pytest.raises(UserError, match=r"has 3 channels, expected in_channels=4"):
        load_network(saved, in_channels=4)
    with pytest.raises(UserError, match=r"a saved network has its own weights"):
        load_network(saved, init_weights="imagenet")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"cannot save a network to .*taken: it is a file, expected a folder"):
        tiny_network().save(tmp_path / "taken")
