import argparse
import copy
import fractions
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segdistill.errors import UserError
from segdistill.networks.loading import load_network, load_run, load_trained
from segdistill.networks.network import Network
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
            r"holds a dict with the keys \(none\), expected tensors by parameter name",
        ),
        (
            lambda s: s.update(model=nn.Linear(1, 1)),
            "holds objects of the class torch.nn.modules.linear.Linear",
        ),
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
        ("b.pth", b"PK\x03\x04", "b.pth is damaged, or no file of torch.save"),
        ("c.pth", b"", "c.pth is damaged, or no file of torch.save: "),
        ("d.onnx", b"", "d.onnx ends in '.onnx', expected one of .safetensors, .pth"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=message):
            load_network(SPEC, num_classes=5, init_weights=tmp_path / name)
    torch.save([1, 2], tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"e.pth holds a list, expected tensors by parameter name"):
        load_network(SPEC, num_classes=5, init_weights=tmp_path / "e.pth")
    with pytest.raises(UserError, match=r"weights file imagnet does not exist"):
        load_network(SPEC, num_classes=5, init_weights="imagnet")
    save_file({"conv_stem.weight": torch.zeros(1)}, tmp_path / "backbone.safetensors")
    with pytest.raises(
        UserError, match=r"; weights of its backbone alone are given as {encoder: \S+backbone.safetensors}$"
    ):
        load_network(SPEC, num_classes=5, init_weights=tmp_path / "backbone.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    several = r"holds its weights in several files, expected model.safetensors; give the folder as the network itself"
    with pytest.raises(UserError, match=several):
        load_network(SPEC, num_classes=5, init_weights=tmp_path)


# ----------------------------------------------------------------------------------- checkpoints of other programs


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


CHECKPOINTS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Any]], list[str]]] = {
    "data parallel": (lambda s: prefixed("module.", s), ["took 'module.' off the names"]),
    "compiled in a Lightning module": (
        lambda s: {
            "epoch": 3,
            "state_dict": {**prefixed("model._orig_mod.", s), "criterion.weight": torch.ones(5)},
            "optimizer_states": [{"state": {0: torch.ones(2)}}],
            "hyper_parameters": argparse.Namespace(lr=0.1),
        },
        [
            "read 'state_dict' of the file",
            "took '_orig_mod.' of a compiled network off the names",
            "took 'model.' off the names",
            "left out 1 tensors outside 'model.' (criterion.weight)",
        ],
    ),
    "its own attribute": (
        lambda s: {"state_dict": prefixed("segmenter.net.", s)},
        ["took 'segmenter.net.' off the names"],
    ),
    "model and optimizer": (lambda s: {"model": prefixed("net.", s), "optimizer": {}}, ["read 'model' of the file"]),
    "averaged": (
        lambda s: {"model": {name: value * 0 for name, value in s.items()}, "ema": {"module": s}},
        ["read 'ema / module' of the file"],
    ),
    "averaged, flat": (
        lambda s: {"state_dict": {**prefixed("model.", {k: v * 0 for k, v in s.items()}), **prefixed("model_ema.", s)}},
        ["took 'model_ema.' off the names"],
    ),
    "averaged, under other names": (
        lambda s: {"params": {name: value * 0 for name, value in s.items()}, "params_ema": s},
        ["read 'params_ema' of the file"],
    ),
    "averaged by the class of torch": (
        lambda s: {"swa_model": {**prefixed("module.", s), "n_averaged": torch.tensor(3)}, "model": {}},
        ["read 'swa_model' of the file", "took 'module.' off the names"],
    ),
    "averaged into a list": (
        lambda s: {"model": s, "ema": {"decay": 0.9, "shadow_params": list(s.values())}},
        ["left out 'ema', which holds no tensors by parameter name", "read 'model' of the file"],
    ),
    "averaged by mmengine, which swaps them": (
        lambda s: {
            "meta": {"mmengine_version": "0.10.7"},
            "message_hub": {"loss": fractions.Fraction(1, 3)},
            "state_dict": s,
            "ema_state_dict": {name: value * 0 for name, value in prefixed("module.", s).items()},
        },
        ["read 'state_dict' of the file", "left out what is no tensor in the file (fractions.Fraction)"],
    ),
    "two deep": (
        lambda s: {"checkpoint": {"state_dict": prefixed("module._orig_mod.", s)}, "optimizer": {"state": {}}},
        ["read 'checkpoint / state_dict' of the file", "took 'module.' off the names"],
    ),
    "under a name of its own": (lambda s: {"segmenter": s, "epoch": 3}, ["read 'segmenter' of the file"]),
    "a score of numpy": (lambda s: {"state_dict": s, "best": np.float64(71.2), "seen": np.arange(3)}, []),
    "settings of its program": (lambda s: {"state_dict": s, "cfg": {"ratio": fractions.Fraction(1, 2)}}, []),
    "old, without counts": (lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, []),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
@pytest.mark.parametrize("suffix", ["ckpt", "bin"])
def test_a_checkpoint_of_another_program(tmp_path: Path, case: str, suffix: str) -> None:
    wrap, told = CHECKPOINTS[case]
    trained = tiny_network()
    torch.save(wrap(trained.model.state_dict()), tmp_path / f"a.{suffix}")
    loaded = load_network(SPEC, num_classes=5, init_weights=tmp_path / f"a.{suffix}").eval()
    assert torch.equal(loaded(images := torch.rand(1, 3, 32, 32)), trained.eval()(images))
    for line in told:
        assert line in loaded.notes


def test_torchvisions_auxiliary_head_is_left_out(tmp_path: Path) -> None:
    from torchvision.models import get_model

    plain = get_model("fcn_resnet50", weights=None, weights_backbone=None, num_classes=3, aux_loss=True).eval()
    torch.save({"model": prefixed("module.", plain.state_dict())}, tmp_path / "a.pth")
    network = load_network("torchvision:fcn_resnet50", num_classes=3, init_weights=tmp_path / "a.pth").eval()
    assert "left out aux_classifier (8 tensors), which this network does not have" in network.notes
    images = torch.rand(1, 3, 64, 64)
    network.set_normalization(None, None)
    with torch.no_grad():
        torch.testing.assert_close(network(images), plain(images)["out"], rtol=0, atol=0)


def test_nothing_of_a_files_objects_runs(tmp_path: Path) -> None:
    state = TinyModel().state_dict()
    torch.save({"state_dict": state, "trap": Trap(tmp_path / "ran")}, tmp_path / "a.pth")
    load_weights(TinyModel(), tmp_path / "a.pth")
    assert not (tmp_path / "ran").exists()


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return shutil.copyfile, (__file__, str(self.file))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: torch.full_like(v, float("nan")), r"holds NaN or infinity in 1 of \d+ tensors \(stage2.bias\)"),
        (lambda v: torch.full_like(v, 1e6).half(), r"holds NaN or infinity in 1 of \d+ tensors \(stage2.bias\)"),
        (lambda v: (v * 127).to(torch.int8), r"holds integers in 1 of \d+ tensors \(stage2.bias: int8\)"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_weights_that_would_give_wrong_labels(
    tmp_path: Path, change: Callable[[Tensor], Tensor], message: str, suffix: str
) -> None:
    state = TinyModel().state_dict()
    state["stage2.bias"] = change(state["stage2.bias"])
    file = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save(state, file)
    else:
        save_file(state, file)
    with pytest.raises(UserError, match=message):
        load_weights(TinyModel(), file)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "PTH"])
def test_what_a_download_leaves_in_place_of_weights(tmp_path: Path, suffix: str) -> None:
    for content, message in {
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab": "is a pointer of Git LFS, .* git lfs pull",
        "\n<!DOCTYPE html><html>": "is a page of HTML",
    }.items():
        (tmp_path / f"a.{suffix}").write_text(content)
        with pytest.raises(UserError, match=message):
            load_weights(TinyModel(), tmp_path / f"a.{suffix}")


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_program_of_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(nn.Conv2d(3, 3, 1)), tmp_path / "a.pt")  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match="holds a TorchScript program, not only tensors"):
        load_weights(TinyModel(), tmp_path / "a.pt")


def test_a_weights_file_where_a_network_is_expected(tmp_path: Path) -> None:
    torch.save(TinyModel().state_dict(), file := tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a.pth' is a file; expected a folder, or a spec .* as init_weights$"):
        load_network(file, num_classes=5)
    with pytest.raises(UserError, match=r"a.pth' is a file; expected a run folder, .* the file as teacher_weights$"):
        load_trained(file, 5, role="teacher", key="teacher_weights")
    with pytest.raises(UserError, match=r"a.pth' is a file; expected the folder of a run"):
        load_run(file)


def test_two_networks_in_one_file(tmp_path: Path) -> None:
    state = TinyModel().state_dict()
    torch.save({**prefixed("student.", state), **prefixed("teacher.", state)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds 2 networks that fit, under student., teacher.: keep one"):
        load_weights(TinyModel(), tmp_path / "a.pth")


def test_a_whole_pickled_model(tmp_path: Path) -> None:
    torch.save(TinyModel(), tmp_path / "a.pth")
    with pytest.raises(UserError) as error:
        load_weights(TinyModel(), tmp_path / "a.pth")
    assert str(error.value) == (
        f"weights file {tmp_path / 'a.pth'} holds objects of the class tests.networks.tiny.TinyModel, not only "
        "tensors, and reading those could run code of whoever made it; where the file was made, save only the "
        "weights: torch.save(model.state_dict(), FILE)"
    )


# ------------------------------------------------------------------------------------------- backbones from files


def encoder_of(network: Network) -> nn.Module:
    return network.model.encoder if hasattr(network.model, "encoder") else network.model.backbone  # type: ignore[return-value]


def equal_part(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


@pytest.mark.parametrize(
    ("spec", "classifier"),
    [
        ("smp:FPN:resnet18", "torchvision:resnet18"),
        ("smp:FPN:resnet18", "timm:resnet18"),
        ("smp:Unet:tu-resnet18", "torchvision:resnet18"),
        ("smp:FPN:tu-convnext_atto", "timm:convnext_atto"),
        ("smp:FPN:tu-mobilenetv3_small_050", "timm:mobilenetv3_small_050"),
        ("torchvision:lraspp_mobilenet_v3_large", "torchvision:mobilenet_v3_large"),
        ("smp:Unet:mobilenet_v2", "torchvision:mobilenet_v2"),
    ],
)
def test_a_backbone_from_the_file_of_a_classifier(tmp_path: Path, spec: str, classifier: str) -> None:
    import timm
    from torchvision.models import get_model

    library, _, name = classifier.partition(":")
    model = get_model(name, weights=None) if library == "torchvision" else timm.create_model(name)
    file = tmp_path / "a.safetensors"
    save_file({f"module.{key}": value.clone() + 0.01 for key, value in model.state_dict().items()}, file)
    network = load_network(spec, num_classes=3, init_weights={"encoder": file})
    (told,) = [note for note in network.notes if "tensors of the backbone loaded" in note]
    count = sum(not key.endswith("num_batches_tracked") for key in encoder_of(network).state_dict())
    assert f"{count} of {count} tensors" in told
    assert any("left out" in note for note in network.notes)
    # The first convolution's values are the file's, and another encoder's file does not fit.
    first = next(v for v in encoder_of(network).state_dict().values() if v.ndim == 4)
    assert any(torch.equal(first, v + 0.01) for v in model.state_dict().values() if v.shape == first.shape)
    with pytest.raises(UserError, match=r"fills \d+ of the \d+ tensors of the backbone of 'smp:FPN:tu-resnet26d'"):
        load_network("smp:FPN:tu-resnet26d", num_classes=3, init_weights={"encoder": file})


def test_the_encoder_of_another_segmentation_network(tmp_path: Path) -> None:
    other = load_network("smp:Unet:tu-mobilenetv3_small_050", num_classes=7)
    other.save(tmp_path)
    file = tmp_path / "model.safetensors"
    network = load_network("smp:FPN:tu-mobilenetv3_small_050", num_classes=3, init_weights={"encoder": file})
    assert equal_part(encoder_of(network), encoder_of(other))
    four = load_network("smp:FPN:tu-mobilenetv3_small_050", 3, in_channels=4, init_weights={"encoder": file})
    assert "adapted the first convolution from 3 to 4 channels" in four.notes


def test_encoders_that_cannot_be(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match="fills 0 of the 206 tensors of the backbone"):
        load_network("smp:FPN:tu-mobilenetv3_small_050", 3, init_weights={"encoder": tmp_path / "a.pth"})
    # timm's names of the same encoder: which one takes them is said.
    torch.save({"conv_stem.weight": torch.ones(32, 3, 3, 3)}, tmp_path / "b.pth")
    told = r"expected the weights of the same backbone, under the names that smp has .* for smp:FPN:tu-efficientnet_b0$"
    with pytest.raises(UserError, match=told):
        load_network("smp:FPN:efficientnet-b0", 3, init_weights={"encoder": tmp_path / "b.pth"})
    with pytest.raises(UserError, match=r"expected imagenet, a file, or \{encoder: FILE\}"):
        load_network("smp:FPN:resnet18", 3, init_weights={"encodr": tmp_path / "a.pth"})
    with pytest.raises(UserError, match=r"does not know which part of .* is the backbone"):
        load_network(SPEC, 3, init_weights={"encoder": tmp_path / "a.pth"})


@pytest.mark.real_data
@pytest.mark.parametrize("encoder", ["tf_efficientnet_lite0", "tf_efficientnet_lite1"])
def test_real_weights_of_a_backbone(encoder: str) -> None:
    import timm
    from safetensors.torch import load_file

    file = Path(os.environ["SEGDISTILL_WEIGHTS"]) / f"{encoder}.safetensors"
    network = load_network(f"smp:FPN:tu-{encoder}", 3, init_weights={"encoder": file}).eval()
    # lite0 and lite1 are trained with mean and deviation 0.5.
    assert network.description.mean == (0.5, 0.5, 0.5)
    model = timm.create_model(encoder, features_only=True)
    model.load_state_dict(load_file(file), strict=False)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = model.eval()((images - 0.5) / 0.5)[1:]
        for one, other in zip(network.features(images).stages, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0)


# ----------------------------------------------------------------------------------------- normalisation by name


def test_a_networks_own_normalisation(tmp_path: Path) -> None:
    network = load_network("smp:FPN:resnet18?mean=[0.5,0.4,0.3]&std=[0.1,0.2,0.25]", num_classes=3)
    assert (network.description.mean, network.description.std) == ((0.5, 0.4, 0.3), (0.1, 0.2, 0.25))
    network.save(tmp_path)
    assert load_network(tmp_path).description == network.description
    assert load_network("smp:FPN:resnet18?mean=null&std=null", num_classes=3).mean is None
    for query, message in {
        "mean=[0.5,0.5,0.5]": "expected 3 values each, or None for both",
        "mean=0.5&std=0.5": "expected a list of numbers each",
        "mean=[0,0,0]&std=[1,0,1]": "expected numbers above 0",
    }.items():
        with pytest.raises(UserError, match=message):
            load_network(f"smp:FPN:resnet18?{query}", num_classes=3)
