import pytest
import torch

from segdistill.errors import UserError
from segdistill.networks.taps import parse_tap, record_taps
from tests.networks.tiny import TinyModel


def record(tap: str) -> torch.Tensor:
    model = TinyModel()
    with record_taps(model, [tap]) as seen:
        model(torch.rand(1, 3, 32, 64))
    return seen[tap]


@pytest.mark.parametrize(
    ("tap", "shape"),
    [
        ("stage2", (1, 16, 4, 8)),
        ("stage1.0", (1, 8, 8, 16)),
        ("backbone[maps][1]", (1, 16, 4, 8)),
        ('backbone["maps"][-2]', (1, 8, 8, 16)),
        ("classifier:input", (1, 16, 4, 8)),
        ("backbone:input", (1, 8, 8, 16)),  # given by keyword
        ("[out]", (1, 5, 4, 8)),  # of the model itself
        (":input", (1, 3, 32, 64)),
    ],
)
def test_what_a_tap_can_name(tap: str, shape: tuple[int, ...]) -> None:
    assert record(tap).shape == shape


@pytest.mark.parametrize(
    ("tap", "message"),
    [
        ("stage3", "no module 'stage3': did you mean stage[12], stage[12]"),
        ("zzz", "no module 'zzz': no module has a name like it; Its children: stage1, stage2, backbone"),
        ("stage2:output", "cannot be read: expected MODULE"),
        ("stage2[", "cannot be read: expected MODULE"),
        ("backbone[maps][2]", r"there is no \[2\] in a list of 2"),
        ("backbone[mops]", r"there is no \[mops\] in a dict with keys maps, tokens, note"),
        ("backbone", r"shows a dict with keys maps, tokens, note, expected a tensor \(B, C, H, W\)"),
        ("backbone[tokens]", r"shows a tensor of shape \(1, 4, 8\), expected"),
        ("backbone[note]", "shows a str, expected"),
        ("unused", "TinyModel never runs that module"),
        ("stage1.1", "'stage1.1' is overwritten in place by a module after it"),
    ],
)
def test_what_it_cannot(tap: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        record(tap)


def test_items_are_indices_or_keys() -> None:
    assert parse_tap("a.b[-1][key]['0']").items == (-1, "key", 0)


def test_inference_mode_is_no_obstacle() -> None:
    with torch.inference_mode():
        assert record("stage2").shape == (1, 16, 4, 8)


def test_the_error_of_the_model_is_the_one_that_comes_out() -> None:
    model = TinyModel()
    with pytest.raises(RuntimeError, match=r"weight of size"), record_taps(model, ["classifier"]):
        model(torch.rand(1, 7, 32, 32))
    assert not any(module._forward_hooks for module in model.modules())
