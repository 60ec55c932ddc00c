import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from segdistill.colors import default_palette
from segdistill.errors import UserError
from segdistill.networks.description import Description
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
    card = json.loads((saved / "network.json").read_text())
    assert card.pop("palette") == [list(color) for color in default_palette(5)]
    assert card == {
        "format": 1,
        "spec": SPEC,
        "classes": ["class 0", "class 1", "class 2", "class 3", "class 4"],
        "in_channels": 3,
        "mean": None,
        "std": None,
        "stride": 8,
        "pixels": None,
        "value_range": None,
        "bands": None,
        "resize": None,
        "window": None,
        "ignore_index": 255,
    }


def test_a_description_comes_back(tmp_path: Path) -> None:
    network = load_network(SPEC, num_classes=2, in_channels=2)
    network.description = replace(
        network.description,
        classes=("road", "roof"),
        palette=((1, 2, 3), (4, 5, 6)),
        mean=(104.25, 99.5),
        std=(20.0, 30.0),
        pixels="uint16",
        value_range=(3.0, 4080.0),
        bands=(4, 2),
        resize=(96, 128),
        window=512,
        ignore_index=0,
    )
    network.save(tmp_path)
    again = load_run(tmp_path)
    assert again.description == network.description
    assert again.description.spec == SPEC
    started = load_network(SPEC, num_classes=2, in_channels=2, init_weights=tmp_path)
    assert started.description == network.description
    with pytest.raises(UserError, match="of 2 classes and 2 channels, but the network has 5 and 3"):
        tiny_network().description = network.description


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["road", "roof"], "RUN has 3 classes, but the data has 2"),
        (["roof", "Road", "lawn"], "RUN (road, roof, tree), but class 0 of the data (roof, Road, lawn)"),
        (["street", "roof", "lawn"], None),
        (["tree", "house", "lawn"], "'tree' is class 2 of RUN"),
    ],
)
def test_classes_are_compared_by_number_and_order(classes: list[str], message: str | None) -> None:
    described = Description(None, ("road", "roof", "tree"), default_palette(3), 3)
    if message is None:
        described.check_classes(classes, "RUN")
        return
    with pytest.raises(UserError) as error:
        described.check_classes(classes, "RUN")
    assert message in str(error.value)


def test_classes_that_capitals_alone_tell_apart() -> None:
    described = Description(None, ("a", "A"), default_palette(2), 3)
    described.check_classes(["a", "A"], "RUN")
    with pytest.raises(UserError, match="'A' is class 1 of RUN"):
        described.check_classes(["A", "a"], "RUN")


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
        ({"classes": []}, "palette has 5 entries, expected 0"),
        ({"palette": [[0, 0, 0]]}, "palette has 1 entries, expected 5"),
        ({"palette": [[0, 0, 256]] * 5}, "palette is .*each 0 to 255"),
        ({"pixels": "uint9"}, "pixels is 'uint9', expected one of uint8, uint16"),
        ({"mean": [0.5, 0.5, 0.5]}, "and std is None, expected both or neither"),
        ({"stride": 0}, "stride is 0, expected a whole number of at least 1"),
        ({"resize": [96]}, r"resize is \[96\], expected \[height, width\]"),
        ({"in_channels": "three"}, "in_channels is 'three', expected a whole number"),
        ({"spec": 5}, "spec is 5, expected a network spec or null"),
        ({"spec": "keras:unet"}, "spec is 'keras:unet', expected one of smp, torchvision"),
        (
            {"classes": list("abcdef"), "palette": [[n, 0, 0] for n in range(6)]},
            r"does not fit this network: .*classifier.weight \(5, 16, 1, 1\) instead of \(6",
        ),
        ({"mean": [0.5]}, "mean has 1 entries, expected 3"),
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
    with pytest.raises(UserError, match=r"network.json lacks classes, palette, in_channels, mean, std"):
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
    with pytest.raises(UserError, match=r"is a saved network and has its own weights; leave init_weights out"):
        load_network(saved, init_weights="imagenet")


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match=r"cannot save a network to .*taken: it is a file, expected a folder"):
        tiny_network().save(tmp_path / "taken")
