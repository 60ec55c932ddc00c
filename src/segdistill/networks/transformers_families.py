"""Segmentation networks of transformers, by model type: where their taps are, and what a new one is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from segdistill.networks.mask_scores import SEMANTIC, MaskScores

SEMANTIC_AUTO = "AutoModelForSemanticSegmentation"
UNIVERSAL_AUTO = "AutoModelForUniversalSegmentation"

_CONVNEXT_TINY = {"model_type": "convnext", "depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]}
_MATCHED = "it is trained by matching its queries to the masks of an image, which segdistill does not do"


class DPTScores(nn.Module):
    """Runs a DPT on images of any shape: its own forward takes all images to be square."""

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """Class scores (B, K, h, w) of normalised images (B, C, H, W)."""
        with _grid_of(model, images):
            scores: Tensor = model(images).logits
        return scores


@contextmanager
def _grid_of(model: Any, images: Tensor) -> Iterator[None]:
    """Tell the neck how many patches the images have in height and width."""
    patch = model.config.patch_size

    def told(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        grid = {"patch_height": images.shape[-2] // patch, "patch_width": images.shape[-1] // patch}
        return args, {**kwargs, **grid}

    hook = model.neck.register_forward_pre_hook(told, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@dataclass(frozen=True)
class Family:
    """One model type.

    Attributes:
        stages: taps, as in `Network`.
        embedding: likewise, always before the dropout that precedes the classifier.
        logits: likewise; None where ``scorer`` makes the class scores.
        head: beginnings of the names of all that a backbone's weights do not hold.
        defaults: settings of a new network that differ from the library's.
        backbone: settings of the backbone inside, for a family that has one of its own; None: there is none.
        auto: the library's class that builds and loads it.
        processor: the library's class that prepares its images.
        scorer: makes what runs the model for its class scores, of the model's configuration.
        multiple: what the sides of its images must be divisible by, of the configuration.
        size: of the only images that it takes, of the configuration.
        teaches_only: why it cannot be a student.
    """

    stages: Sequence[str]
    embedding: str
    logits: str | None
    head: str | tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    backbone: Mapping[str, Any] | None = None
    auto: str = SEMANTIC_AUTO
    processor: str = "SegformerImageProcessor"
    scorer: Callable[[Any], nn.Module] | None = None
    multiple: Callable[[Any], int] = lambda config: 1
    size: Callable[[Any], tuple[int, int] | None] = lambda config: None
    teaches_only: str | None = None


def _fixed(config: Any) -> tuple[int, int]:
    size = config.image_size
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _two_patches(config: Any) -> int:
    owner = config if getattr(config, "patch_size", None) else config.backbone_config
    return 2 * int(owner.patch_size)  # the coarsest map has half as many positions as there are patches


def _task(config: Any) -> MaskScores:
    length = config.task_seq_len
    return MaskScores([float(token) for token in (*SEMANTIC, *[0] * length)[:length]])


def _universal(features: str, **settings: Any) -> Family:
    """A family whose masks are products of its queries and of the pixel decoder's ``features``."""
    swin = {"backbone_config": {"model_type": "swin"}}
    of_stages = {"out_features": [f"stage{i}" for i in range(1, 5)]}
    given: dict[str, Any] = {"defaults": swin, "backbone": of_stages, "multiple": lambda config: 32, **settings}
    stages = given.pop("stages", [f"model.pixel_level_module.encoder[feature_maps][{i}]" for i in range(4)])
    return Family(
        stages=stages,
        embedding=features,
        logits=None,
        head="",
        auto=UNIVERSAL_AUTO,
        scorer=given.pop("scorer", lambda config: MaskScores()),
        teaches_only=_MATCHED,
        **given,
    )


def _eomt() -> Family:
    # Its layers are all one transformer's: the only map beside that of the mask head is the last layer's.
    return _universal(
        "upscale_block",
        stages=["upscale_block:input"],
        defaults={},
        backbone=None,
        multiple=lambda config: 1,
        size=_fixed,
        processor="EomtImageProcessor",
    )


def _pyramid(**settings: Any) -> Family:
    """A family with UPerNet's head on a pyramid made of a plain transformer's layers."""
    return Family(
        stages=[f"decode_head:input[{i}]" for i in range(4)],
        embedding="decode_head.fpn_bottleneck",
        logits="decode_head.classifier",
        **settings,
    )


def _mobilevit(name: str) -> Family:
    return Family(
        stages=[f"{name}.encoder.layer.{i}" for i in range(1, 5)],
        embedding="segmentation_head.aspp.project",
        logits="segmentation_head.classifier",
        head="segmentation_head",
        defaults={"output_stride": 16},  # as in the published weights
    )


_OF_STAGES = {"out_features": [f"stage{i}" for i in range(1, 5)]}

FAMILIES = {
    "segformer": Family(
        stages=[f"segformer.stages.{i}" for i in range(4)],
        embedding="decode_head.activation",
        logits="decode_head.classifier",
        head="decode_head",
    ),
    "upernet": _pyramid(
        head="decode_head",
        # Without the auxiliary head: its scores go nowhere but into the library's own loss.
        defaults={"backbone_config": _CONVNEXT_TINY, "hidden_size": 256, "use_auxiliary_head": False},
        backbone=_OF_STAGES,
    ),
    "mobilenet_v2": Family(
        stages=[f"mobilenet_v2.layer.{i}" for i in (1, 4, 11, 15)],  # the last before each stride of 2, and the last
        embedding="segmentation_head.conv_projection",
        logits="segmentation_head.classifier",
        head="segmentation_head",
        # Stride 8 as in the published weights. The library's dropout of 0.8 is what TensorFlow KEEPS.
        defaults={"output_stride": 8, "classifier_dropout_prob": 0.2},
    ),
    "mobilevit": _mobilevit("mobilevit"),
    "mobilevitv2": _mobilevit("mobilevitv2"),
    "beit": _pyramid(
        head=("fpn", "decode_head"),
        defaults={"use_auxiliary_head": False, "out_indices": [3, 5, 7, 11], "use_relative_position_bias": True},
        multiple=_two_patches,
    ),
    "data2vec-vision": _pyramid(
        head=("fpn", "decode_head"),
        defaults={"use_auxiliary_head": False, "use_relative_position_bias": True},
        size=_fixed,
    ),
    "dpt": Family(
        stages=[f"neck.reassemble_stage[{i}]" for i in range(4)],
        embedding="head.head.2",
        logits="head.head.4",
        head=("neck", "head"),
        defaults={"use_auxiliary_head": False},
        scorer=lambda config: DPTScores(),
        multiple=_two_patches,
    ),
    "sapiens2": Family(
        stages=["decode_head.input_conv"],
        embedding="decode_head.predictor:input",
        logits="decode_head.predictor",
        head="decode_head",
        multiple=_two_patches,
    ),
    "tipsv2_dpt": Family(
        stages=[f"neck.reassemble_stage[{i}]" for i in range(4)],
        embedding="decoder.activation",
        logits="decoder",
        head=("neck", "decoder"),
        defaults={"backbone_config": {"model_type": "tipsv2_vision_model"}},
        backbone={"out_indices": [3, 6, 9, 12], "apply_layernorm": True, "reshape_hidden_states": False},
        multiple=_two_patches,
    ),
    "maskformer": _universal(
        "model.pixel_level_module[decoder_last_hidden_state]", processor="MaskFormerImageProcessor"
    ),
    "mask2former": _universal(
        "model.pixel_level_module[decoder_last_hidden_state]", processor="Mask2FormerImageProcessor"
    ),
    # OneFormer's own processor would fetch names of classes from the hub; it does the same with images.
    "oneformer": _universal(
        "model.pixel_level_module[decoder_last_feature]", processor="Mask2FormerImageProcessor", scorer=_task
    ),
    "eomt": _eomt(),
    "eomt_dinov3": _eomt(),
}
"""By model type, as the library's configurations name it."""
