"""KA's pre-stage: its auto-encoder, and how that is trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.methods import KA
from tests.tiny import tiny_network


@pytest.mark.parametrize(("student_stride", "teacher_stride", "side"), [(16, 8, 4), (32, 4, 2), (8, 8, 8), (4, 16, 4)])
def test_ka_code_has_the_students_stride(student_stride: int, teacher_stride: int, side: int) -> None:
    """E strides from the teacher's (at least 8) to the student's; it does not where the student is finer."""
    student, teacher = tiny_network(4, stride=student_stride), tiny_network(8, stride=teacher_stride)
    method = KA()
    method.build(student.info, teacher.info)
    embedding = teacher.eval().features(torch.rand(1, 3, 64, 64)).embedding
    pooled = F.avg_pool2d(embedding, 2) if teacher_stride == 4 else embedding
    assert method.encoder(pooled).shape[-2:] == (side, side)
    assert method.decoder(method.encoder(pooled)).shape == pooled.shape


def test_ka_pre_stage_learns_to_restore_the_teachers_features() -> None:
    torch.manual_seed(0)
    teacher = tiny_network(8, stride=8).eval()
    method = KA()
    method.build(tiny_network(4, stride=16).info, teacher.info)
    images = [torch.rand(4, 3, 64, 64) for _ in range(30)]

    def error() -> float:
        features = teacher.features(images[0]).embedding / method.rms
        method.eval()
        return F.mse_loss(method.decoder(method.encoder(features)), features).item()

    method.rms = teacher.features(images[0]).embedding.square().mean().sqrt().detach()
    before = error()
    method.prepare([method.teacher_outputs(teacher.features(batch)) for batch in images])
    assert error() < 0.5 * before


def test_ka_encoder_stays_as_it_is_while_the_student_learns() -> None:
    method = KA()
    method.build(tiny_network(4).info, tiny_network(8).info)
    method.train()
    assert not method.encoder.training
    assert method.adapt_adapter.training
    assert not any(
        parameter.requires_grad for parameter in [*method.encoder.parameters(), *method.decoder.parameters()]
    )
    assert all(parameter.requires_grad for parameter in method.adapt_adapter.parameters())


def test_ka_layers_are_those_of_the_paper() -> None:
    """Batch normalisation and ReLU follow every convolution but the last, whose output is any number."""
    method = KA()
    method.build(tiny_network(4, stride=16).info, tiny_network(8, stride=8).info)
    block = ["BatchNorm2d", "ReLU"]
    assert [type(layer).__name__ for part in method.encoder for layer in part] == 3 * ["Conv2d", *block]
    assert [type(layer).__name__ for layer in method.decoder] == [*2 * ["ConvTranspose2d", *block], "ConvTranspose2d"]
    assert [part[0].stride for part in method.encoder] == [(2, 2), (1, 1), (1, 1)]
    assert all(part[0].bias is None for part in [*method.encoder, method.adapt_adapter])


def plain_pre_stage(method: KA, batches: list[Tensor]) -> nn.ModuleList:
    """One pass of SGD by hand: momentum 0.9, weight decay in the gradient, gradients clipped together at 1."""
    networks = copy.deepcopy(nn.ModuleList([method.encoder, method.decoder])).train().requires_grad_(True)
    parameters = list(networks.parameters())
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    scale = batches[0].square().mean().sqrt()
    for batch in batches:
        target = batch / scale
        code = networks[0](target)
        loss = (networks[1](code) - target).square().mean() + method.sparsity * code.abs().sum() / len(batch)
        gradients = torch.autograd.grad(loss, parameters)
        length = torch.sqrt(sum(gradient.square().sum() for gradient in gradients))
        assert length > 1, "the test must see the clipping"
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                velocity.mul_(0.9).add_(gradient / length + method.weight_decay * parameter)
                parameter.sub_(method.lr * velocity)
    return networks


def test_pre_stage_step_by_step() -> None:
    torch.manual_seed(0)
    method = KA(lr=0.02, weight_decay=0.1, sparsity=0.05)
    method.build(tiny_network(4, stride=16).info, tiny_network(8, stride=8).info)
    method.double()
    channels = tiny_network(8, stride=8).info.embedding.channels
    batches = [(0.5 + index) * torch.randn(2, channels, 8, 8, dtype=torch.float64) for index in range(4)]
    expected = plain_pre_stage(method, batches)
    method.prepare([{"embedding.pooled": batch} for batch in batches])
    assert not any(
        parameter.requires_grad for parameter in [*method.encoder.parameters(), *method.decoder.parameters()]
    )
    for ours, theirs in zip([method.encoder, method.decoder], expected, strict=True):
        for name, parameter in theirs.named_parameters():
            torch.testing.assert_close(ours.get_parameter(name), parameter.data, rtol=1e-6, atol=1e-9)
    assert method.rms.item() == pytest.approx(batches[0].square().mean().sqrt().item(), rel=1e-6)


@pytest.mark.parametrize(("width", "latent"), [(8, 16), (40, 40), (64, 64)])
def test_the_code_is_half_as_wide_as_the_teachers_embedding(width: int, latent: int) -> None:
    """And at least 16 wide; a tiny network's embedding is twice its width."""
    method = KA()
    method.build(tiny_network(4).info, tiny_network(width).info)
    assert method.encoder(torch.rand(2, 2 * width, 8, 8)).shape[1] == latent
    narrow = KA(latent_channels=3)
    narrow.build(tiny_network(4).info, tiny_network(width).info)
    code = narrow.encoder(torch.rand(2, 2 * width, 8, 8))
    assert code.shape[1] == 3
    assert narrow.decoder(code).shape == (2, 2 * width, 8, 8)
