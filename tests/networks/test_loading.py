import sys
from pathlib import Path

import pytest
import torch

import segdistill
from segdistill.arguments import parse_options
from segdistill.errors import UserError
from segdistill.networks.loading import has_own_weights, load_network
from segdistill.networks.request import IMAGENET_MEAN, Request
from segdistill.networks.there import check_there
from segdistill.reporting.names import network_name

SEGFORMER = (
    "transformers:segformer?depths=[1,1,1,1]&hidden_sizes=[8,16,24,32]&num_attention_heads=[1,1,1,1]"
    "&decoder_hidden_size=16"
)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet18", "unknown network 'resnet18': no such folder, nor one of smp:..., torchvision:..."),
        ("runs/nowhere", "unknown network 'runs/nowhere': no such folder"),
        ("keras:unet", "unknown network 'keras:unet'"),
        ("smp:FPM:resnet18", "unknown smp architecture 'FPM': did you mean 'FPN'"),
        ("smp:FPN", "names no encoder: expected smp:ARCH:ENCODER"),
        (
            "smp:FPN:resnet19",
            "unknown smp encoder 'resnet19': did you mean resnet1.* There are [0-9]+ of smp",
        ),
        ("smp:FPN:tu-mobilnetv3_small_050", "did you mean tu-mobilenetv3_small_050"),
        (
            "smp:FPN:resnet18?decoder_dropuot=0",
            "unknown option .* 'decoder_dropuot': did you mean 'decoder_dropout'",
        ),
        ("smp:FPN:resnet18?activation=softmax", "unknown option .* 'activation'"),
        ("smp:FPN:resnet18?classes=4", "unknown option .* 'classes'"),
        ("smp:FPN:tu-mobilenetv3_small_050?nonsense=1", "cannot build network .*nonsense"),
        ("smp:FPN:tu-vit_tiny_patch16_224", "cannot build network 'smp:FPN:tu-vit_tiny_patch16_224': "),
        (
            "smp:FPN:tu-swin_tiny_patch4_window7_224",
            r"cannot build network '.*224': Input height \(64\) doesn't match model \(224\)",
        ),
        ("smp:Linknet:mit_b0", "cannot build network 'smp:Linknet:mit_b0': .*not supported for Linknet"),
        ("smp:FPN:resnet18?decoder_dropout", "option 'decoder_dropout' of network .* expected key=value"),
        ("smp:FPN:resnet18?a=1&a=2", "option 'a' of network .* is given twice"),
        ("smp:FPN:resnet18?a=[1", r"option 'a' of network .*: '\[1' is no YAML value"),
        (
            "torchvision:fcn_resnet51",
            "unknown torchvision network 'fcn_resnet51': did you mean 'fcn_resnet50'",
        ),
        ("torchvision:fcn_resnet50?aux_loss=true", "takes no options, found aux_loss"),
        ("transformers:./segfomer", "'./segfomer' is neither a folder, nor a name on the hub"),
        ("transformers:./nowhere", "'./nowhere' is neither a folder"),
        ("transformers:segformer?depth=[1]", "unknown option .* 'depth': did you mean 'depths'"),
        ("transformers:upernet?backbone_config={model_type: swim}", "cannot build network .*swim"),
        (
            "transformers:upernet?backbone_config=convnext",
            "is 'convnext', expected a mapping like {model_type: swin}",
        ),
        (
            "transformers:upernet?backbone_config={model_type: swin, dephts: [1]}",
            "unknown option .* 'dephts': did you mean 'depths'",
        ),
        ("transformers:segfomer", "unknown transformers network or folder 'segfomer': did you mean 'segformer'"),
        ("smp:DeepLabV3Plus:resnet18?output_stride=8", "did you mean 'encoder_output_stride'"),
        ("python:tests.networks.tiny", "cannot be read: expected python:module:Name"),
        (
            "python:tests.networks.tinny:make",
            "module 'tests.networks.tinny' cannot be imported",
        ),
        ("python:tests.networks.tiny:mak_tiny", "unknown name in module .* did you mean 'make_tiny'"),
        ("python:tests.networks.tiny:Backbone", "cannot build network .*unexpected keyword argument"),
        ("python:builtins:dict", "returned a dict, expected a segdistill Network"),
    ],
)
def test_a_network_that_nobody_knows(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_network(spec, num_classes=4)


@pytest.mark.parametrize(
    "spec",
    [
        "smp:FPN:resnet18",
        "torchvision:lraspp_mobilenet_v3_large",
        "python:tests.networks.tiny:make_tiny",
        SEGFORMER,
    ],
)
def test_num_classes_is_asked_for(spec: str) -> None:
    with pytest.raises(UserError, match=r"num_classes is missing: network '"):
        load_network(spec)


def test_numbers_out_of_range() -> None:
    with pytest.raises(UserError, match=r"num_classes is 0, expected at least 1"):
        load_network("smp:FPN:resnet18", num_classes=0)
    with pytest.raises(UserError, match=r"in_channels is 0, expected at least 1"):
        load_network("smp:FPN:resnet18", num_classes=2, in_channels=0)
    with pytest.raises(UserError, match=r"num_classes is '2', expected at least 1"):
        load_network("smp:FPN:resnet18", num_classes="2")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"network is '', expected a spec"):
        load_network("", num_classes=2)
    with pytest.raises(UserError, match=r"takes 3 channels, not in_channels=4"):
        load_network("torchvision:lraspp_mobilenet_v3_large", num_classes=2, in_channels=4)


def test_a_function_of_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_networks.py").write_text(
        "from tests.networks.tiny import tiny_network\n"
        "def make(num_classes, in_channels, multiple=1):\n"
        "    return tiny_network(num_classes, in_channels, multiple=multiple)\n"
        "def wrong(num_classes, in_channels):\n"
        "    return tiny_network(num_classes + 1, in_channels)\n"
        "def fails(num_classes, in_channels):\n"
        "    raise KeyError('the reason')\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    network = load_network("python:my_own_networks:make?multiple=16", num_classes=4, in_channels=2)
    assert (network.num_classes, network.info.in_channels, network.multiple) == (4, 2, 16)
    assert network.spec == "python:my_own_networks:make?multiple=16"
    with pytest.raises(UserError, match=r"has 5 classes, expected num_classes=4"):
        load_network("python:my_own_networks:wrong", num_classes=4)
    with pytest.raises(UserError, match=r"cannot build network 'python:my_own_networks:fails': the reason is missing"):
        load_network("python:my_own_networks:fails", num_classes=4)
    with pytest.raises(UserError, match=r"which .* does not take; load the weights in the function itself"):
        load_network("python:my_own_networks:make", num_classes=4, init_weights="imagenet")


def test_options_reach_the_constructor() -> None:
    network = load_network("smp:FPN:resnet18?decoder_segmentation_channels=64&decoder_dropout=0.0", num_classes=4)
    assert network.info.embedding.channels == 64
    assert network.model.decoder.dropout.p == 0


def test_values_of_options_are_yaml() -> None:
    assert parse_options("a=[1, 2]&b=null&c=x=y&d={k: 1e-1}", what="") == {
        "a": [1, 2],
        "b": None,
        "c": "x=y",
        "d": {"k": 0.1},
    }


@pytest.mark.parametrize("spec", ["smp:FPN:resnet18", "smp:FPN:tu-resnet18", "torchvision:lraspp_mobilenet_v3_large"])
def test_imagenet_weights_that_cannot_be_fetched(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("no route to host\nwith many details")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.hf_hub_download", offline)
    monkeypatch.setattr("timm.models._builder.load_pretrained", offline)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    told = f"cannot get ImageNet weights for '{spec}' .no route to host with many details.: .*encoder: FILE"
    with pytest.raises(UserError, match=told):
        load_network(spec, num_classes=4, init_weights="imagenet")


def test_mean_and_std_of_the_encoders_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from segdistill.networks.from_smp import _normalization

    parameters = {"mean": [127.5, 51, 0], "std": [255, 51, 25.5], "input_range": [0, 255]}
    monkeypatch.setattr(
        "segmentation_models_pytorch.encoders.get_preprocessing_params", lambda *_args, **_kwargs: parameters
    )
    request = Request("smp:FPN:resnet18", "FPN:resnet18", imagenet=True)
    assert _normalization("resnet18", request) == ([0.5, 0.2, 0.0], [1.0, 0.2, 0.1])
    random = Request("smp:FPN:resnet18", "FPN:resnet18")
    assert _normalization("resnet18", random)[0] == IMAGENET_MEAN


def test_transformers_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"needs the package transformers: pip install 'segdistill\[transformers\]'"):
        load_network("transformers:segformer", num_classes=4)


def test_parameters_that_nothing_uses_are_frozen() -> None:
    network = load_network("smp:PSPNet:resnet18", num_classes=4)
    frozen = {name.split(".")[2] for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"layer3", "layer4"}  # the encoder ends at depth 3
    network = load_network("smp:FPN:resnet18", num_classes=4)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_statistics_of_new_torchvision_networks_follow_the_images() -> None:
    network = load_network("torchvision:lraspp_mobilenet_v3_large", num_classes=4)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    assert all(norm.momentum == 0.1 for norm in norms)


def test_a_new_mobilevit_and_mobilenet_can_train() -> None:
    for name in ("mobilevit", "mobilenet_v2"):
        network = load_network(f"transformers:{name}", num_classes=4)
        norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        assert all(norm.momentum == 0.1 and bool((norm.weight == 1).all()) for norm in norms)


def test_a_spec_may_be_longer_than_the_name_of_a_file() -> None:
    spec = f"smp:FPN:resnet18?decoder_dropout=0.{'0' * 5000}1"
    assert not has_own_weights(spec)
    check_there(spec)
    assert network_name(spec) == "FPN resnet18"
    with pytest.raises(UserError, match="network spec, which has no trained weights"):
        segdistill.evaluate(spec, data={"dataset": "synthetic-aerial"})
    assert load_network(spec, num_classes=3).start == "random"
