from __future__ import annotations

from typing import Any

import pytest
import torch

from segdistill import UserError
from segdistill.device import choose_device, choose_precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("features", "asked", "chosen"),
    [
        ({"avx512_bf16": True}, "auto", "bf16"),
        ({"amx_bf16": True}, "auto", "bf16"),
        ({"avx512_bf16": True}, "bf16", "bf16"),
        ({"avx2": True, "avx512_bf16": False}, "auto", "fp32"),
        ({"avx2": True}, "bf16", "fp32"),
        ({}, "auto", "fp32"),
        ({"avx512_bf16": True}, "fp32", "fp32"),
        ({"avx512_bf16": True}, "fp16", "fp32"),
    ],
)
def test_cpu(monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], asked: str, chosen: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert choose_precision(asked, CPU) == chosen


def test_cpu_of_an_older_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert choose_precision("auto", CPU) == "fp32"


@pytest.mark.parametrize(
    ("native", "asked", "chosen"),
    [
        (True, "auto", "bf16"),
        (False, "auto", "fp32"),
        (False, "bf16", "bf16"),
        (True, "fp16", "fp16"),
        (True, "fp32", "fp32"),
    ],
)
def test_cuda(monkeypatch: pytest.MonkeyPatch, native: bool, asked: str, chosen: str) -> None:
    def supported(including_emulation: bool = True) -> bool:
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert choose_precision(asked, CUDA) == chosen


def test_mps() -> None:
    assert [choose_precision(asked, MPS) for asked in ("auto", "bf16", "fp16", "fp32")] == [
        "fp32",
        "bf16",
        "fp16",
        "fp32",
    ]


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")])
def test_auto_takes_the_fastest(monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, chosen: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert choose_device("auto").type == chosen


def test_cpu_by_name() -> None:
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize("name", ["cude", "meta", "", "cuda:99", "gpu"])
def test_no_such_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=rf"^device '{name}' is not available here; expected auto, cpu, cuda"):
        choose_device(name)


def test_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*size: int, device: Any) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "zeros", missing)
    with pytest.raises(UserError, match=r"^device 'cuda' is not available here"):
        choose_device("cuda")


def test_a_device_of_torch_is_taken_too() -> None:
    assert choose_device(CPU) == choose_device("cpu") == CPU
    with pytest.raises(UserError, match="device 'xpu' is not available here"):
        choose_device(torch.device("xpu"))
