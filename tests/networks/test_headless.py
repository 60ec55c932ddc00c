"""Backbones without a segmentation head, of timm and transformers: teachers of features."""

import copy
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
import transformers

from segdistill import Distiller, Network, load_network
from segdistill.errors import UserError
from segdistill.methods.catalogue import needs
from segdistill.networks.headless import spread
from segdistill.networks.loading import load_trained
from segdistill.networks.wrapping import as_network
from tests.methods.settings import SETTINGS, Setting
from tests.networks.tiny import tiny_network

_VIT = "num_attention_heads=2&num_hidden_layers=4&hidden_size=32"
_STAGES = "depths=[1,1,1,1]&hidden_sizes=[8,16,24,32]"
_WINDOWS = "embed_dim=16&depths=[1,1,1,1]&num_heads=[1,1,2,2]"
DINOV2 = f"transformers:dinov2?{_VIT}&image_size=56&patch_size=14"
TIMM_VIT = "timm:vit_small_patch14_dinov2?depth=4&embed_dim=32&num_heads=2&img_size=56"
PYRAMIDS = [
    f"transformers:convnext?{_STAGES}",
    f"transformers:convnextv2?{_STAGES}",
    f"transformers:dinov3_convnext?{_STAGES}",
    f"transformers:resnet?{_STAGES}&embedding_size=8",
    f"transformers:swin?{_WINDOWS}&window_size=4",
    f"transformers:swinv2?{_WINDOWS}&window_size=4",
    "timm:convnext_atto?depths=[1,1,1,1]&dims=[8,16,24,32]",
    "timm:resnet18",
    "timm:mobilenetv3_small_050",
    f"timm:swin_tiny_patch4_window7_224?{_WINDOWS}",
]
PLAIN = [
    DINOV2,
    f"transformers:dinov2_with_registers?{_VIT}&image_size=56&patch_size=14",
    f"transformers:dinov3_vit?{_VIT}&intermediate_size=64&patch_size=16",
    TIMM_VIT,
    "timm:vit_small_patch16_dinov3?depth=4&embed_dim=32&num_heads=2",
]


@torch.no_grad()
@pytest.mark.parametrize("spec", [*PYRAMIDS, *PLAIN], ids=lambda spec: spec.partition("?")[0])
def test_a_backbone_shows_features_and_no_scores(spec: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = load_network(spec).eval()
    assert network.num_classes == network.info.logits.channels == 0
    assert network.description.classes == ()
    images = torch.rand(1, 3, 4 * network.multiple, 8 * network.multiple)
    logits, features = network.forward_with_features(images)
    assert logits.shape == (1, 0, *images.shape[2:])
    strides = [4, 8, 16, 32] if spec in PYRAMIDS else [network.multiple] * 4
    assert [stage.stride for stage in network.info.stages] == strides
    for tap, view in zip(
        [*network.info.stages, network.info.embedding], [*features.stages, features.embedding], strict=True
    ):
        assert view.shape == (1, tap.channels, images.shape[2] // tap.stride, images.shape[3] // tap.stride)
    network.save(tmp_path)
    loaded = load_network(tmp_path).eval()
    assert torch.equal(loaded.features(images).embedding, features.embedding)
    assert (loaded.spec, loaded.info, loaded.description) == (network.spec, network.info, network.description)
    assert torch.equal(copy.deepcopy(network).features(images).embedding, features.embedding)


@torch.no_grad()
@pytest.mark.parametrize("spec", [DINOV2, PLAIN[2]], ids=["dinov2", "dinov3"])
def test_maps_are_the_librarys_own_tokens_in_their_places(spec: str, tmp_path: Path) -> None:
    config = load_network(spec).model.config
    kind = transformers.Dinov2Model if "dinov2" in spec else transformers.DINOv3ViTModel
    model = kind(config).eval()
    model.save_pretrained(tmp_path)
    size = config.patch_size
    images = torch.rand(2, 3, 3 * size, 5 * size)
    tokens = model(images).last_hidden_state[:, -15:]
    expected = tokens.transpose(1, 2).unflatten(2, (3, 5))
    wrapped = as_network(model).eval().features(images).embedding
    loaded = as_network(load_network(tmp_path).model).eval().features(images).embedding
    torch.testing.assert_close(wrapped, expected)
    torch.testing.assert_close(loaded, expected)


@torch.no_grad()
def test_timms_tokens_are_those_of_its_last_layer() -> None:
    model = load_network(TIMM_VIT).model.model.eval()
    images = torch.rand(1, 3, 42, 70)
    expected = model.forward_features(images)[:, 1:].transpose(1, 2).unflatten(2, (3, 5))
    torch.testing.assert_close(as_network(model).eval().features(images).embedding, expected)


def test_weights_of_a_classifier_fill_timms_backbone_and_those_of_another_do_not(tmp_path: Path) -> None:
    file = tmp_path / "resnet18.safetensors"
    classifier = timm.create_model("resnet18", num_classes=10)
    safetensors.torch.save_file(classifier.state_dict(), file)
    teacher = load_trained("timm:resnet18", 5, weights=file, role="teacher", key="teacher_weights")
    assert torch.equal(next(teacher.parameters()), next(classifier.parameters()))
    assert teacher.notes == ["left out 2 tensors of resnet18.safetensors (fc.bias, fc.weight)"]
    with pytest.raises(UserError, match=r"resnet18.safetensors does not fit this network: \d+ missing"):
        load_network("timm:convnext_atto", init_weights=file)
    with pytest.raises(UserError, match="teacher 'timm:resnet18' is a network spec, which has no trained weights"):
        load_trained("timm:resnet18", 5, role="teacher", key="teacher_weights")


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_methods_of_features_and_relations_take_it_and_others_refuse(setting: Setting, dinov2: Network) -> None:
    method = setting.make()
    # maskd finds its regions by the teacher's classes; auto leaves out what the teacher cannot give.
    classes = setting.name == "maskd" or method.hyper_parameters().get("balance") == "teacher"
    if setting.name != "auto" and ("logits" in needs(method) or classes):
        told = f"method {method.name} compares class scores of student and teacher, but the teacher is a backbone"
        with pytest.raises(UserError, match=f"{told} .*methods for it are .*feature, ka, drd, .*kd: 0 brd, skd"):
            Distiller(dinov2, tiny_network(multiple=14), method)
        return
    distiller = Distiller(dinov2, tiny_network(multiple=4), method)
    images, labels = torch.rand(2, 3, 56, 84), torch.randint(0, 5, (2, 56, 84))
    if distiller.has_pre_stage:
        distiller.prepare([images])
    out = distiller(images, labels)
    out.loss.backward()
    assert all(bool(torch.isfinite(term)) for term in out.terms.values())


@pytest.fixture(scope="module")
def dinov2() -> Network:
    return load_network(DINOV2)


@pytest.mark.parametrize("spec", ["timm:resnet18", PYRAMIDS[0]])
def test_a_backbone_is_no_student(spec: str) -> None:
    with pytest.raises(
        UserError, match=r"can only teach its features: .* but a network of 5 classes is needed; a network with"
    ):
        load_network(spec, num_classes=5)
    model: Any = load_network(spec)
    with pytest.raises(UserError, match=r"the student .* can only teach: it is a backbone without a segmentation head"):
        Distiller(tiny_network(), model, "kd")


def test_names_and_options_that_do_not_exist() -> None:
    with pytest.raises(UserError, match=r"unknown timm model 'resnet81': did you mean"):
        load_network("timm:resnet81")
    with pytest.raises(UserError, match=r"cannot build network 'timm:resnet18.hue=3'"):
        load_network("timm:resnet18?hue=3")
    with pytest.raises(UserError, match=r"unknown option of .* 'dephts'"):
        load_network("transformers:convnext?dephts=[1]")


def test_four_stages_end_with_the_last_layer() -> None:
    assert (spread(12), spread(24), spread(3)) == ([3, 6, 9, 12], [6, 12, 18, 24], [1, 2, 3])
