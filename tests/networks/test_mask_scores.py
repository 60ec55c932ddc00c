"""Masks and their classes as class log-probabilities, and the networks that predict them."""

import math

import pytest
import torch
import transformers
from torch import Tensor

from segdistill import Distiller, Network, Supervised, load_network
from segdistill.data.scoring import TiledModel
from segdistill.errors import UserError
from segdistill.networks.mask_scores import SMALLEST, class_log_probabilities
from segdistill.networks.wrapping import as_network
from tests.methods.settings import SETTINGS, Setting
from tests.networks.specs import EOMT, MASK2FORMER, ONEFORMER
from tests.networks.tiny import tiny_network

CLASSES = 5


def masks_and_classes(scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    classes = scale * torch.randn(2, 7, CLASSES + 1, generator=generator)
    return classes, scale * torch.randn(2, 7, 6, 4, generator=generator)


def test_scores_are_the_published_formula() -> None:
    classes, masks = masks_and_classes()
    scores = class_log_probabilities(classes, masks)
    for image, label, row, column in [(0, 0, 0, 0), (1, 4, 5, 3), (0, 2, 3, 1)]:

        def claimed(k: int, image: int = image, row: int = row, column: int = column) -> float:
            total = 0.0
            for query in range(7):
                of_classes = [math.exp(value) for value in classes[image, query].double().tolist()]
                in_mask = 1 / (1 + math.exp(-float(masks[image, query, row, column])))
                total += of_classes[k] / sum(of_classes) * in_mask
            return total + SMALLEST

        expected = math.log(claimed(label) / sum(claimed(k) for k in range(CLASSES)))
        assert float(scores[image, label, row, column]) == pytest.approx(expected, abs=1e-5)


def test_the_best_class_is_that_of_the_librarys_own_inference() -> None:
    classes, masks = masks_and_classes()
    outputs = transformers.models.maskformer.modeling_maskformer.MaskFormerForInstanceSegmentationOutput(
        class_queries_logits=classes, masks_queries_logits=masks
    )
    maps = transformers.MaskFormerImageProcessor().post_process_semantic_segmentation(outputs)
    assert torch.equal(torch.stack(maps), class_log_probabilities(classes, masks).argmax(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_finite_where_no_mask_claims_a_pixel(dtype: torch.dtype) -> None:
    classes, masks = torch.full((1, 3, CLASSES + 1), -1e4, dtype=dtype), torch.full((1, 3, 2, 2), -1e4, dtype=dtype)
    classes[..., -1] = 1e4  # all queries say "no object"
    scores = class_log_probabilities(classes, masks)
    torch.testing.assert_close(scores, torch.full_like(scores, -math.log(CLASSES)))


def test_probabilities_add_up_to_one() -> None:
    total = class_log_probabilities(*masks_and_classes(30.0)).exp().sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))


def test_oneformer_is_told_its_task(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_network(ONEFORMER, num_classes=CLASSES).eval()
    seen: list[Tensor] = []
    encoder = network.model.get_submodule("model.task_encoder")
    encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(torch.rand(2, 3, 64, 64))
    assert seen[0].shape == (2, 77)
    # "the task is semantic" between the start and the end of a text, as CLIP's tokenizer has them.
    assert seen[0][1, :8].tolist() == [49406, 518, 10549, 533, 29119, 1550, 49407, 0]


@pytest.fixture(scope="module")
def mask2former() -> Network:
    torch.manual_seed(0)
    return load_network(MASK2FORMER, num_classes=CLASSES)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_method_takes_a_universal_teacher(setting: Setting, mask2former: Network) -> None:
    distiller = Distiller(mask2former, tiny_network(CLASSES), setting.make())
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, CLASSES, (2, 64, 64))
    if distiller.has_pre_stage:
        distiller.prepare([images])
    out = distiller(images, labels)
    out.loss.backward()
    assert all(bool(torch.isfinite(term)) for term in out.terms.values())
    assert all(bool(torch.isfinite(p.grad).all()) for p in distiller.parameters() if p.grad is not None)


def test_a_plain_universal_model_is_wrapped_and_can_only_teach() -> None:
    model = load_network(MASK2FORMER, num_classes=CLASSES).model
    network = as_network(model)
    assert network.num_classes == CLASSES
    assert network.spec == "transformers:mask2former"
    told = "the student transformers:mask2former can only teach: it is trained by matching its queries"
    with pytest.raises(UserError, match=told):
        Distiller(tiny_network(CLASSES), model, "kd")
    with pytest.raises(UserError, match=told):
        Supervised(network)


def test_a_teacher_of_one_size_names_the_crop_that_fits() -> None:
    teacher = load_network(EOMT, num_classes=CLASSES)
    distiller = Distiller(teacher, tiny_network(CLASSES), "kd")
    told = r"the teacher takes only images of 144 x 144 pixels, but these are 96 x 128; give crop: \[144, 144\]"
    with pytest.raises(UserError, match=told):
        distiller(torch.rand(1, 3, 96, 128))
    with pytest.raises(UserError, match=told):
        distiller.teacher_outputs(torch.rand(1, 3, 96, 128))
    assert distiller(torch.rand(1, 3, 144, 144)).loss > 0


def test_two_networks_that_no_crop_fits_are_refused() -> None:
    teacher = load_network(EOMT, num_classes=CLASSES)
    with pytest.raises(UserError, match="sides that 32 divides: no crop fits both"):
        Distiller(teacher, tiny_network(CLASSES, multiple=32), "kd")


@torch.no_grad()
def test_a_network_of_one_size_scores_larger_and_smaller_images() -> None:
    network = load_network(EOMT, num_classes=CLASSES).eval()
    tiled = TiledModel.of(network)
    image = torch.rand(3, 200, 150)
    assert tiled.scores(image).shape == (CLASSES, 200, 150)
    torch.testing.assert_close(tiled.scores(image[:, :144, :144]), network(image[None, :, :144, :144])[0])
    with pytest.raises(UserError, match=r"200 x 150 pixels are too large .* give crop: \[144, 144\]"):
        network(image[None])
