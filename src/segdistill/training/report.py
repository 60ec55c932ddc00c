"""The page of a run: its scores beside its teacher's, images, curves, and the recipe as it was run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from segdistill.datasets import SegmentationDataset
from segdistill.datasets.base import Window
from segdistill.evaluation.forward_time import forward_ms
from segdistill.metrics.scores import Scores, percent
from segdistill.naming import objects_in
from segdistill.networks.network import Network
from segdistill.networks.size import count_parameters
from segdistill.progress import counted, duration
from segdistill.recipe.data import Data
from segdistill.reporting import charts, gallery
from segdistill.reporting.charts import Point
from segdistill.reporting.curves import curve_figures
from segdistill.reporting.names import network_name
from segdistill.reporting.page import (
    Block,
    Facts,
    Figure,
    Figures,
    Fold,
    Listing,
    Page,
    Paragraph,
    Section,
    Strip,
    Table,
)
from segdistill.reporting.picture import predict
from segdistill.run_folder import RunFolder

#: Validation images in a run's report.
PICTURED = 6


def run_report(
    folder: RunFolder,
    scores: Scores,
    data: Data,
    networks: Mapping[str, Network],
    teacher_miou: float | None,
    *,
    agreement: bool = False,
) -> str:
    """A finished run as a page.

    Args:
        folder: its recipe and history.
        scores: on the validation split.
        data: its splits.
        networks: the trained one, last, and before it the teacher, where it is at hand, by name.
        teacher_miou: the teacher's mIoU on the same images in percent; None where it is not known.
        agreement: whether the validation images have no labels but the teacher's.
    """
    history, validation = folder.read_numbers(), data.val
    # Spread over the split, since neighbours in a list are often neighbours in a film.
    shown = sorted({index * len(validation) // PICTURED for index in range(PICTURED)})
    config = folder.read_config()
    sections = [
        Section("short", "In short", _in_short(scores, validation, networks, teacher_miou, history, agreement)),
        Section("images", "Images", [_pictures(validation, networks, index, agreement) for index in shown]),
        Section("next", "Next steps", _next_steps(folder, config)),
        Section("classes", "Classes", _classes(scores)),
        Section("training", "Training", _training(history, teacher_miou)),
        Section("recipe", "Recipe", _recipe(folder, config)),
    ]
    kind = "Distilled from its teacher" if "teacher" in config else "Trained on labels alone"
    epochs = int(history[-1].get("epoch", 0)) if history else 0
    summary = (
        f"{kind} in {counted(epochs, 'epoch')} on {_training_images(data)}; scores are "
        f"{'agreement with the teacher, not accuracy,' if agreement else 'those'} on "
        f"{counted(len(validation), 'validation image')}, which took no part in the training"
    )
    spec = str(config.get("student", config.get("network", "network")))
    return Page(f"{network_name(spec)}: {folder.path.name}", summary, sections).render()


def _pictures(validation: SegmentationDataset, networks: Mapping[str, Network], index: int, agreement: bool) -> Strip:
    """A validation image, its labels and what is predicted, with headings that can be read on a phone."""
    scene = gallery.read_scene(validation, index)
    for name, network in networks.items():
        scene.predictions[name] = predict(network, scene.image)
    truth = "the teacher's labels" if agreement else "the labels"
    caption = f"Validation image {validation.ids[index]}"
    return gallery.strip(scene, validation, {name: (name, "") for name in networks}, caption, truth)


def image_counts(data: Data, *, agreement: bool) -> dict[str, int | str]:
    """What metrics.json says of the images: how many have labels, how many have none, and what scores mean."""
    alone = data.train.unlabelled_index is not None
    further = 0 if data.unlabelled is None else len(data.unlabelled)
    return {
        "scores": "agreement with the teacher, not accuracy" if agreement else "accuracy",
        "labelled_images": 0 if alone else len(data.train),
        "unlabelled_images": len(data.train) if alone else further,
    }


def last_line(folder: RunFolder, scores: Scores, teacher_miou: float | None, *, agreement: bool) -> str:
    """What a run says at its end: its scores, its teacher's where it is known, and where more is."""
    if agreement:
        told = f"val agreement with the teacher (not accuracy): mIoU {scores.miou:.2f} %  equal pixels"
    else:
        told = f"val mIoU {scores.miou:.2f} %  pixel accuracy"
    teacher = "" if teacher_miou is None else f"  teacher's mIoU {teacher_miou:.2f} %"
    return f"{folder.path}  {told} {scores.pixel_accuracy:.2f} %{teacher}  more in {folder.report_file.name}"


def _training_images(data: Data) -> str:
    if data.train.unlabelled_index is not None:
        return f"{len(data.train)} unlabelled images"
    if data.unlabelled is None:
        return counted(len(data.train), "image")
    return f"{len(data.train)} labelled and {len(data.unlabelled)} unlabelled images"


def _in_short(
    scores: Scores,
    validation: SegmentationDataset,
    networks: Mapping[str, Network],
    teacher_miou: float | None,
    history: Sequence[Mapping[str, float]],
    agreement: bool,
) -> list[Block]:
    name, network = list(networks.items())[-1]
    teacher = networks.get("teacher")
    lead = f"The {name} reaches an mIoU of {scores.miou:.2f} %"
    if agreement:
        lead += " of agreement with its teacher, which is not accuracy: the validation images have no labels"
    if teacher_miou:
        kept = 100 * scores.miou / teacher_miou
        lead += f", {kept:.0f} % of its teacher's {teacher_miou:.2f} %"
    _, height, width = validation.open(0).window(_first_window(validation))[0].shape
    own, device = forward_ms(network, (height, width), repeats=5, warmup=1), network.device
    facts = [("mIoU", f"{scores.miou:.2f} %", "" if teacher_miou is None else f"teacher {teacher_miou:.2f} %")]
    of_teacher = "" if teacher is None else f"teacher {count_parameters(teacher) / 1e6:.2f} M"
    facts.append(("parameters", f"{count_parameters(network) / 1e6:.2f} M", of_teacher))
    where = f"{height} x {width} pixels, on {device}"
    if teacher is not None:
        where = f"teacher {forward_ms(teacher, (height, width), repeats=5, warmup=1):.1f} ms; {where}"
    facts.append(("time for an image", f"{own:.1f} ms", where))
    seconds = sum(row.get("seconds", 0.0) for row in history)
    facts.append(("training", duration(seconds), "without validation"))
    who = ""
    if teacher_miou is not None:
        who = "The student is a small, fast network; its teacher is a larger one, which helped in the training. "
    meaning = (
        f"{who}mIoU, mean intersection over union, is for each class the area that prediction and truth share, divided "
        "by the area that either covers, averaged over the classes; 100 % is perfect. How much a teacher helped is "
        "seen only beside the same network trained without it: segdistill compare trains both."
    )
    return [Paragraph(f"{lead}.", "lead"), Paragraph(meaning, "note"), Facts(facts)]


def _next_steps(folder: RunFolder, config: Mapping[str, Any]) -> list[Block]:
    """Commands to use the network with, and to find out how much its teacher helped or to make it a teacher."""
    use = [f"segdistill predict {folder.path} photos --output labels", f"segdistill export {folder.path}"]
    blocks: list[Block] = [
        Paragraph("Label your images with the network, or export it to a file to deploy:"),
        Listing("\n".join(use), "commands"),
    ]
    if next(objects_in(config), None) is not None:  # no command line can name them
        return blocks
    if "teacher" in config:
        told = (
            "See how much the teacher helped: train the same network with it, without it, and without it for as long, "
            "with three seeds each:"
        )
        methods = ",".join(["none", "none@time", *(name for one in config["method"] for name in one)])
        command = f"segdistill compare {folder.path}/config.yaml --methods {methods} --seeds 3 --output comparison"
    else:
        told = "Or make it the teacher of a smaller network, on the same images:"
        data = shlex.quote(json.dumps(config["data"], ensure_ascii=False))
        small = "smp:FPN:tu-mobilenetv3_small_100"
        command = f"segdistill distill --data {data} --teacher {folder.path} --student {small} --output small"
    return [*blocks, Paragraph(told), Listing(command, "commands")]


def _first_window(dataset: SegmentationDataset) -> Window:
    """What a network sees of the first image at once."""
    size = dataset.open(0).size
    height, width = (min(side, dataset.evaluation_window or side) for side in size)
    return Window(0, 0, height, width)


def _classes(scores: Scores) -> list[Block]:
    rows = [["mean", f"{scores.miou:.2f}", f"{scores.mean_f1:.2f}"]]
    rows += [[name, percent(iou), percent(scores.f1[name])] for name, iou in scores.iou.items()]
    known = {name: iou for name, iou in scores.iou.items() if iou is not None}
    looks = charts.styles(["IoU"])
    points = [[Point("IoU", iou, iou, iou)] for iou in known.values()]
    figures = [Figure(charts.bars("IoU by class", list(known), points, looks, "IoU in %"), "IoU of each class.")]
    return [Figures(figures if known else []), Table("Scores by class", ["class", "IoU %", "F1 %"], rows)]


def _training(history: Sequence[Mapping[str, float]], teacher_miou: float | None) -> list[Block]:
    figures = curve_figures(history, teacher_miou)
    if figures:
        return [Figures(figures)]
    return [Paragraph("One epoch makes no curve; history.csv has its numbers.", "note")]


def _recipe(folder: RunFolder, config: Mapping[str, object]) -> list[Block]:
    recipe = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    command = "distill" if "teacher" in config else "train"
    return [
        Paragraph("This command makes the run again:"),
        Listing(f"segdistill {command} {folder.path}/config.yaml --output again", "command"),
        Fold("The recipe as it was run, which is also in config.yaml", [Listing(recipe, "recipe")]),
    ]
