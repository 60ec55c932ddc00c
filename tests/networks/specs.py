"""A small network of every kind that `load_network` builds, and what its own library makes of it."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segdistill.networks.network import Network

CLASSES = 5
DILATED = "smp:PSPNet:resnet18?encoder_depth=5&output_stride=8"
SEGFORMER = (
    "transformers:segformer?depths=[1,1,1,1]&hidden_sizes=[8,16,24,32]&num_attention_heads=[1,1,1,1]"
    "&decoder_hidden_size=16"
)
CONVNEXT = (
    "transformers:upernet?hidden_size=16"
    "&backbone_config={depths: [1,1,1,1], hidden_sizes: [8,16,24,32], model_type: convnext}"
)
SWIN = (
    "transformers:upernet?hidden_size=16&backbone_config="
    "{embed_dim: 16, depths: [1,1,1,1], num_heads: [1,1,2,2], window_size: 4, model_type: swin}"
)
VIT = "hidden_size=32&num_hidden_layers=4&num_attention_heads=2&intermediate_size=64&patch_size=16"
#: Nine patches a side, so that every size used here fits networks of one size.
PLAIN = f"{VIT}&image_size=144"
PYRAMID = PLAIN.replace("layers=4", "layers=5") + "&out_indices=[2,3,4,5]"
TIPS = (
    "transformers:tipsv2_dpt?neck_hidden_sizes=[8,8,16,16]&fusion_hidden_size=16&backbone_config="
    "{hidden_size: 32, num_hidden_layers: 4, num_attention_heads: 2, image_size: 56, "
    "patch_size: 14, out_indices: [1, 2, 3, 4], model_type: tipsv2_vision_model}"
)
_SWIN_BACKBONE = "{embed_dim: 16, depths: [1,1,1,1], num_heads: [1,1,2,2], window_size: 4, model_type: swin}"
_QUERIES = f"num_queries=10&num_attention_heads=2&backbone_config={_SWIN_BACKBONE}"
MASKFORMER = (
    "transformers:maskformer?fpn_feature_size=32&mask_feature_size=32&decoder_config="
    "{model_type: detr, d_model: 32, encoder_layers: 1, decoder_layers: 2, encoder_ffn_dim: 64, decoder_ffn_dim: 64, "
    f"encoder_attention_heads: 2, decoder_attention_heads: 2, num_queries: 10}}&backbone_config={_SWIN_BACKBONE}"
)
MASK2FORMER = (
    "transformers:mask2former?feature_size=32&mask_feature_size=32&hidden_dim=32&encoder_feedforward_dim=64"
    f"&dim_feedforward=64&encoder_layers=1&decoder_layers=3&{_QUERIES}"
)
ONEFORMER = (
    "transformers:oneformer?conv_dim=32&mask_dim=32&hidden_dim=32&encoder_feedforward_dim=64&dim_feedforward=64"
    f"&encoder_layers=1&decoder_layers=3&text_encoder_width=16&text_encoder_num_layers=1&{_QUERIES}"
)
EOMT = (
    "transformers:eomt?hidden_size=32&num_hidden_layers=4&num_attention_heads=2&image_size=144&patch_size=16"
    "&num_blocks=2&num_queries=10"
)
UNIVERSAL = [MASKFORMER, MASK2FORMER, ONEFORMER, EOMT, f"transformers:eomt_dinov3?{PLAIN}&num_blocks=2&num_queries=10"]
SPECS = [
    "smp:Unet:tu-mobilenetv3_small_050",
    "smp:FPN:tu-mobilenetv3_small_050",
    "smp:fpn:mit_b0",
    "smp:PSPNet:resnet18",
    DILATED,
    "smp:DeepLabV3:tu-mobilenetv3_small_050",
    "smp:DeepLabV3Plus:tu-mobilenetv3_small_050",
    "smp:Segformer:mit_b0",
    "smp:UPerNet:tu-mobilenetv3_small_050?decoder_channels=32",
    "torchvision:deeplabv3_mobilenet_v3_large",
    "torchvision:lraspp_mobilenet_v3_large",
    SEGFORMER,
    CONVNEXT,
    SWIN,
    "transformers:mobilenet_v2?depth_multiplier=0.35",
    "transformers:mobilevit?hidden_sizes=[16,24,32]&neck_hidden_sizes=[8,8,16,16,24,24,32]&aspp_out_channels=16",
    "transformers:mobilevitv2?width_multiplier=0.25&aspp_out_channels=16",
    f"transformers:beit?{PYRAMID}&pool_scales=[1,2]",
    f"transformers:data2vec-vision?{PYRAMID}&pool_scales=[1,2]",
    f"transformers:dpt?{PLAIN}&backbone_out_indices=[0,1,2,3]&neck_hidden_sizes=[8,8,16,16]&fusion_hidden_size=16",
    f"transformers:sapiens2?{VIT}&image_size=[64,64]&num_key_value_attention_heads=2"
    "&head_config={upsample_out_channels: [16,16], conv_out_channels: [16]}",
    TIPS,
    *UNIVERSAL,
]

#: A spec of each source.
OF_SOURCES = {spec.partition(":")[0]: spec for spec in reversed(SPECS)}


def calibrate(network: Network) -> None:
    """Give batch norm the statistics of a batch: with those of a new network, most outputs are constants."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network(images(batch=2))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def images(height: int = 64, width: int = 64, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


#: "the task is semantic" in the tokens of CLIP, and 70 zeros.
TASK = [49406.0, 518.0, 10549.0, 533.0, 29119.0, 1550.0, 49407.0, *[0.0] * 70]


def native_logits(network: Network, model: nn.Module, batch: Tensor) -> Tensor:
    """What somebody gets who normalises by hand and calls the plain model."""
    told = {} if "oneformer" not in str(network.spec) else {"task_inputs": torch.tensor([TASK])}
    output = model((batch - network.mean) / network.std, **told)
    if hasattr(output, "masks_queries_logits"):
        queries = output.class_queries_logits.softmax(-1)[..., :-1].transpose(1, 2)
        found = (queries @ output.masks_queries_logits.sigmoid().flatten(2)).unflatten(
            2, output.masks_queries_logits.shape[2:]
        )
        found = (found + 1e-6) / (found + 1e-6).sum(1, keepdim=True)
        return F.interpolate(found.log(), batch.shape[-2:], mode="bilinear", align_corners=False)
    logits = output["out"] if isinstance(output, dict) and "out" in output else getattr(output, "logits", output)
    return F.interpolate(logits, batch.shape[-2:], mode="bilinear", align_corners=False)
