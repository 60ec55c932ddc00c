"""The README of a published network: what it is, how it was made, what it is good for, and what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segdistill import __version__
from segdistill.comparison.results import BASELINE
from segdistill.errors import UserError
from segdistill.metrics.scores import percent
from segdistill.networks.folder import read_description
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.prediction.predictor import Predictor
from segdistill.run_folder import RunFolder

NOT_MEASURED = "not measured"

_OF_SMP = """\
import segmentation_models_pytorch as smp, torch, torchvision
model = smp.from_pretrained(".").eval()
image = torchvision.io.read_image("photo.jpg")[None] / 255
mean, std = torch.tensor({mean}).view(1, -1, 1, 1), torch.tensor({std}).view(1, -1, 1, 1)
labels = model((image - mean) / std).argmax(1)
"""

_OF_TRANSFORMERS = """\
import transformers; from PIL import Image
processor = transformers.AutoImageProcessor.from_pretrained(".")
model = transformers.AutoModelForSemanticSegmentation.from_pretrained(".").eval()
photo = Image.open("photo.jpg").convert("RGB"); scores = model(**processor(photo, return_tensors="pt"))
labels = processor.post_process_semantic_segmentation(scores, target_sizes=[photo.size[::-1]])[0]
"""

_OF_MANY_BANDS = """\
{imports}
model = {loader}(".").eval()
mean, std = torch.tensor({mean}).view(1, -1, 1, 1), torch.tensor({std}).view(1, -1, 1, 1)
images = mean + std * torch.randn(1, {channels}, 256, 256)  # here yours, float32 (B, {channels}, H, W) as in training
scores = model((images - mean) / std)
"""


@dataclass(frozen=True)
class Gain:
    """mIoU on the validation split in percent; None: not measured."""

    teacher: float | None
    baseline: float | None
    own: float | None


def model_card(run: Path, network: Network, predictor: Predictor, library: str) -> str:
    """The README of a run's network.

    Args:
        run: its folder; nothing of where it lies goes into the text.
        network: of the run.
        predictor: of the run, for the classes.
        library: smp or transformers, whose own function loads it.
    """
    folder = RunFolder.of(run)
    config = folder.read_config() if folder.config_file.exists() else {}
    metrics = folder.read_metrics() or {}
    data: Mapping[str, Any] = config.get("data") or {}
    sections = [
        _front_matter(library, data),
        f"# {network.spec}\n\nSemantic segmentation into {len(predictor.classes)} classes, "
        f"{count_parameters(network) / 1e6:.2f} million parameters. Made with segdistill {__version__}.",
        f"## How to load\n\nWith {_PACKAGES[library]} alone, in this folder:\n\n```python\n{_code(network, library)}```"
        + _sizes(network, library),
        f"## Data\n\n{_data(data)}",
        f"## Method\n\n{_method(config)}",
        f"## Teacher\n\n{_teacher(config)}",
        f"## Gain\n\n{_gain(_measured(run, config, metrics), config)}",
        f"## Classes\n\n{_classes(predictor.classes, metrics)}",
        f"## Limits\n\n{_limits(config, metrics, predictor)}",
    ]
    return "\n\n".join(sections) + "\n"


_PACKAGES = {"smp": "segmentation_models_pytorch", "transformers": "transformers"}


def _front_matter(library: str, data: Mapping[str, Any]) -> str:
    name = data.get("dataset")
    values = {
        "library_name": {"smp": "segmentation-models-pytorch", "transformers": "transformers"}[library],
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "knowledge-distillation", "segdistill"],
        "datasets": [] if name in (None, "folder") else [name],
    }
    text = yaml.safe_dump(values, sort_keys=False).rstrip()
    comment = "to be filled in; that of the data and of the weights it began with matter"
    return f"---\nlicense: unknown  # {comment}\n{text}\n---"


def _code(network: Network, library: str) -> str:
    channels = network.info.in_channels
    mean = [0.0] * channels if network.mean is None else _rounded(network.mean.flatten().tolist())
    std = [1.0] * channels if network.std is None else _rounded(network.std.flatten().tolist())
    if channels != 3:
        imports, loader = {
            "smp": ("import segmentation_models_pytorch as smp, torch", "smp.from_pretrained"),
            "transformers": (
                "import torch, transformers",
                "transformers.AutoModelForSemanticSegmentation.from_pretrained",
            ),
        }[library]
        return _OF_MANY_BANDS.format(imports=imports, loader=loader, mean=mean, std=std, channels=channels)
    return _OF_SMP.format(mean=mean, std=std) if library == "smp" else _OF_TRANSFORMERS


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.7g}") for value in values]


def _sizes(network: Network, library: str) -> str:
    told = []
    if network.multiple > 1:
        told.append(f"Height and width of the image must be divisible by {network.multiple}.")
    if library == "transformers" and network.info.in_channels != 3:
        told.append("The class scores are `scores.logits`, smaller than the images.")
    return "\n\n" + " ".join(told) if told else ""


def _data(data: Mapping[str, Any]) -> str:
    if not data:
        return "Not recorded."
    name = "images of the author's own" if data.get("dataset") == "folder" else f"`{data['dataset']}`"
    told = [f"Trained and validated on the splits of {name}; which ones, the author should say here."]
    for key, what in (("resize", "resized to"), ("crop", "training crops of"), ("bands", "bands")):
        if data.get(key) is not None:
            told.append(f"{what} {data[key]}".capitalize() + ".")
    return " ".join(told)


def _method(config: Mapping[str, Any]) -> str:
    if not config:
        return "Not recorded."
    train = config.get("train") or {}
    keys = ("epochs", "batch_size", "optimizer", "lr", "loss")
    how = ", ".join(f"{key} {train[key]}" for key in keys if key in train)
    start = config.get("init_weights")
    begun = "random weights" if start is None else f"the weights `{Path(start).name}`"
    if "teacher" not in config:
        return f"From labels alone ({how}), starting from {begun}."
    method = yaml.safe_dump(config.get("method"), default_flow_style=True, width=1000).replace("...", "").strip()
    return f"Distilled with `{method}` ({how}), starting from {begun}."


def _teacher(config: Mapping[str, Any]) -> str:
    teacher = config.get("teacher")
    if teacher is None:
        return "None." if config else "Not recorded."
    try:
        return f"`{read_description(Path(teacher)).spec}`, trained before on the same classes."
    except UserError:
        return f"`{teacher}`." if ":" in teacher else "Its folder is gone; the author should name it here."


def _measured(run: Path, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> Gain:
    teacher = metrics.get("teacher_miou")
    if teacher is None and config.get("teacher"):
        teacher = (RunFolder(config["teacher"]).read_metrics() or {}).get("miou")
    # In a comparison the student alone lies beside the distilled one: cells/none/seed-0 and cells/brd/seed-0.
    run = run.resolve()
    alone = run.parent.parent / BASELINE / run.name if run.parent.parent.name == "cells" else None
    baseline = None if alone is None or alone == run else (RunFolder(alone).read_metrics() or {}).get("miou")
    return Gain(teacher, baseline, metrics.get("miou"))


def _gain(gain: Gain, config: Mapping[str, Any]) -> str:
    if "teacher" not in config:
        own = NOT_MEASURED if gain.own is None else f"{gain.own:.2f} %"
        return f"Not distilled, so there is none. mIoU on the validation split: {own}."

    def cell(value: float | None) -> str:
        return NOT_MEASURED if value is None else f"{value:.2f}"

    lines = ["| mIoU on the validation split | % |", "|---|---|"]
    lines.append(f"| teacher | {cell(gain.teacher)} |")
    lines.append(f"| the same student alone, without the teacher | {cell(gain.baseline)} |")
    lines.append(f"| this student | {cell(gain.own)} |")
    if gain.baseline is None or gain.own is None:
        told = (
            "Whether the teacher helped is not measured: it takes the same student trained alone, on the same recipe."
        )
    else:
        told = (
            f"{gain.own - gain.baseline:+.2f} points against the same student alone, with one seed each: other seeds "
            "differ by about as much as such gains are."
        )
    return "\n".join([*lines, "", told])


def _classes(classes: tuple[str, ...], metrics: Mapping[str, Any]) -> str:
    iou = metrics.get("iou") or {}
    lines = ["| label | class | IoU % on the validation split |", "|---|---|---|"]
    for label, name in enumerate(classes):
        lines.append(f"| {label} | {name} | {percent(iou[name]) if name in iou else NOT_MEASURED} |")
    return "\n".join(lines)


def _limits(config: Mapping[str, Any], metrics: Mapping[str, Any], predictor: Predictor) -> str:
    told = [
        "- Images from other places, cameras, seasons or resolutions than the training images' will be labelled worse.",
        "- The scores are those of the validation split. If recipes were chosen by them, they flatter.",
        f"- Every pixel gets one of the {len(predictor.classes)} classes, whatever it shows; there is no 'unknown'.",
    ]
    scored = {name: value for name, value in (metrics.get("iou") or {}).items() if value is not None}
    if scored:
        worst = min(scored, key=lambda name: scored[name])
        told.append(f"- Worst is `{worst}`, with an IoU of {scored[worst]:.1f} %.")
    if not config:
        told.append("- The training was not recorded.")
    return "\n".join(told)
