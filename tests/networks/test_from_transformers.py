"""Checkpoints of transformers that segdistill did not write."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from segdistill.errors import UserError
from segdistill.networks.loading import load_network, load_run
from segdistill.networks.request import IMAGENET_MEAN
from segdistill.prediction.predictor import open_predictor

TINY: dict[str, Any] = {
    "depths": [1, 1, 1, 1],
    "hidden_sizes": [8, 16, 24, 32],
    "num_attention_heads": [1, 1, 1, 1],
    "decoder_hidden_size": 16,
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    config = transformers.SegformerConfig(num_labels=5, **TINY)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_says_its_own_classes(checkpoint: Path) -> None:
    network = load_network(f"transformers:{checkpoint}").eval()
    assert network.num_classes == 5
    assert network.mean is not None
    assert network.mean.flatten().tolist() == pytest.approx(IMAGENET_MEAN)
    plain = transformers.SegformerForSemanticSegmentation.from_pretrained(checkpoint).eval()
    images = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(network.features(images).logits, plain((images - network.mean) / network.std).logits)


def test_the_weights_do_not_hang_on_the_file(checkpoint: Path) -> None:
    network = load_network(f"transformers:{checkpoint}").eval()
    before = network(torch.ones(1, 3, 64, 64))
    file = checkpoint / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(network(torch.ones(1, 3, 64, 64)), before)


def test_a_file_of_the_library_is_a_file_of_weights(checkpoint: Path) -> None:
    options = "&".join(f"{key}={value}" for key, value in TINY.items())
    spec = f"transformers:segformer?{options}"
    network = load_network(spec, num_classes=5, init_weights=checkpoint / "model.safetensors").eval()
    expected = load_network(f"transformers:{checkpoint}").eval()
    assert torch.equal(network(torch.ones(1, 3, 64, 64)), expected(torch.ones(1, 3, 64, 64)))
    with pytest.raises(UserError, match=r"model.safetensors does not fit this network: .* of another shape"):
        load_network(spec, num_classes=4, init_weights=checkpoint / "model.safetensors")


def test_another_number_of_classes_needs_a_new_head(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"has 5 classes, expected num_classes=4; init_weights='imagenet' keeps"):
        load_network(f"transformers:{checkpoint}", num_classes=4)
    network = load_network(f"transformers:{checkpoint}", num_classes=4, init_weights="imagenet")
    full = load_network(f"transformers:{checkpoint}").model.state_dict()
    assert network.num_classes == 4
    for name, value in network.model.state_dict().items():
        if name.startswith("segformer."):
            assert torch.equal(value, full[name])


def test_a_classifiers_weights_are_a_backbone(tmp_path: Path) -> None:
    config = transformers.SegformerConfig(num_labels=10, **TINY)
    classifier = transformers.SegformerForImageClassification(config)
    classifier.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"does not fit this network: [0-9]+ missing \(decode_head"):
        load_network(f"transformers:{tmp_path}")
    network = load_network(f"transformers:{tmp_path}", num_classes=4, init_weights="imagenet")
    body = classifier.segformer.state_dict()
    assert all(torch.equal(network.model.segformer.state_dict()[key], body[key]) for key in body)
    with pytest.raises(UserError, match=r"has no ImageNet weights: name a checkpoint"):
        load_network("transformers:segformer", num_classes=4, init_weights="imagenet")


def test_how_the_checkpoint_wants_its_images(checkpoint: Path) -> None:
    settings: dict[str, Any] = {
        "do_normalize": True,
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.1, 0.2, 0.3],
    }
    file = checkpoint / "preprocessor_config.json"
    file.write_text(json.dumps(settings))
    mean = load_network(f"transformers:{checkpoint}").mean
    assert mean is not None
    assert mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
    file.write_text(json.dumps(settings | {"do_normalize": False}))
    assert load_network(f"transformers:{checkpoint}").mean is None
    file.write_text(json.dumps({"do_flip_channel_order": True}))
    with pytest.raises(UserError, match=r"was trained on BGR images"):
        load_network(f"transformers:{checkpoint}")


def test_checkpoints_that_do_not_do(checkpoint: Path, tmp_path: Path) -> None:
    spec = f"transformers:{checkpoint}"
    with pytest.raises(UserError, match=r"a checkpoint takes no options"):
        load_network(f"{spec}?depths=[1]")
    with pytest.raises(UserError, match=r"takes 3 channels, not in_channels=4"):
        load_network(spec, in_channels=4)
    weights = (checkpoint / "model.safetensors").read_bytes()
    (checkpoint / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(UserError, match=r"model.safetensors is damaged or truncated"):
        load_network(spec)
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"cannot load network 'transformers:"):
        load_network(spec)
    (checkpoint / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match=r"unknown model type of .* 'bert': .*Known: beit, .*segformer"):
        load_network(spec)
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read '.*' as a folder here, nor fetch it"):
        load_network(spec)


def test_a_name_on_the_hub_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("We couldn't connect to the hub\nand more")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(
        UserError, match=r"cannot read 'nvidia/mit-b0' as a folder here, nor fetch it .* couldn't connect"
    ):
        load_network("transformers:nvidia/mit-b0", num_classes=4)


def test_a_name_on_the_hub_predicts_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's library lays it out on this machine; nothing is fetched."""
    cached = tmp_path / "models--owner--name"
    config = transformers.SegformerConfig(num_labels=5, **TINY)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(cached / "snapshots" / "0" / "")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("segdistill.networks.fetching._reachable", lambda _: False)
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)  # between attempts to reach the hub
    found, expected = open_predictor("transformers:owner/name", "cpu"), load_run(cached / "snapshots" / "0")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(found.model.scorer(images), expected(images))
    other = transformers.SegformerForSemanticSegmentation(config)
    other.save_pretrained(cached / "snapshots" / "0")
    assert open_predictor("transformers:owner/name", "cpu").identity != found.identity
    with pytest.raises(UserError, match=r"cannot read 'owner/nam' as a folder here, nor fetch it"):
        open_predictor("transformers:owner/nam", "cpu")
    assert waits == []
    with pytest.raises(UserError, match=r"'transformers:segformer' is a network spec, which has no trained weights"):
        load_run("transformers:segformer")


def test_a_folder_may_be_called_like_a_model_type(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.rename(checkpoint.parent / "dpt")
    monkeypatch.chdir(checkpoint.parent)
    assert load_network("dpt").num_classes == 5
