import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.loading import load_network
from segdistill.networks.weights import load_weights, write_weights
from tests.networks.tiny import TinyModel, tiny_network

SPEC = "python:tests.networks.tiny:make_tiny"


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_from_a_file(tmp_path: Path, kind: str) -> None:
    network = tiny_network().eval()
    file = tmp_path / f"model.{kind}"
    if kind == "pth":
        torch.save(network.model.state_dict(), file)
    else:
        write_weights(network.model, tmp_path)
    loaded = load_network(SPEC, num_classes=5, init_weights=file).eval()
    assert torch.equal(loaded(images := torch.rand(1, 3, 32, 32)), network(images))


def test_tied_weights_are_written_once_and_come_back(tmp_path: Path) -> None:
    def tied() -> nn.Sequential:
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        model[1].weight = model[0].weight
        return model

    model, other = tied(), tied()
    write_weights(model, tmp_path)
    load_weights(other, tmp_path / "model.safetensors")
    assert all(torch.equal(other.state_dict()[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stage2.bias"), r"does not fit this network: 1 missing \(stage2.bias\)$"),
        (lambda s: s.update(extra=torch.zeros(1)), r"does not fit this network: 1 unexpected \(extra\)$"),
        (
            lambda s: s.update({"stage2.bias": torch.zeros(3)}),
            r"1 of another shape \(stage2.bias \(3,\) instead of \(16,\)\)$",
        ),
        (
            lambda s: [s.pop(key) for key in list(s)],
            r"13 missing \(stage1.0.weight, stage1.0.bias, stage1.1.weight, ...\)",
        ),
        (lambda s: s.update(epoch=3), "holds a dict with keys .*, expected a state dict"),
        (lambda s: s.update(model=nn.Linear(1, 1)), "is damaged, or holds more than a state dict of tensors"),
    ],
)
def test_weights_that_do_not_fit_change_nothing(tmp_path: Path, change: object, message: str) -> None:
    model = TinyModel()
    before = copy.deepcopy(model.state_dict())
    state: dict[str, Tensor] = {key: value + 1 for key, value in before.items()}
    change(state)
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=message):
        load_weights(model, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    for name, content, message in [
        ("a.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "a.safetensors is damaged or truncated"),
        ("b.pth", b"PK\x03\x04", "b.pth is damaged, or holds more"),
        ("c.pth", b"", "c.pth is damaged, or holds more than a state dict of tensors: "),
        ("d.onnx", b"", "d.onnx: expected a .safetensors, .pth or .pt file, found '.onnx'"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_network(SPEC, num_classes=5, init_weights=tmp_path / name)
    torch.save([1, 2], tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"e.pth holds a list, expected a state dict"):
        load_network(SPEC, num_classes=5, init_weights=tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"weights file imagnet does not exist"):
        load_network(SPEC, num_classes=5, init_weights="imagnet")
